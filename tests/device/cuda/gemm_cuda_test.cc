// A product that is used often gets the fastest of several algorithms, and the same bits as before.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/bf16.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/kernel_state.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::device::cuda {
namespace {

TEST(CudaGemm, HasTheSameBitsBeforeAndAfterItsAlgorithmIsChosen) {
  constexpr int64_t kM = 2048, kN = 1536, kK = 1024;
  constexpr int kCalls = 100;  // 3.2e11 multiply-adds: the choice is made after 2.7e11
  const Probe probe = accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  CudaQueue queue(0);
  const base::Philox random(3);
  std::vector<bf16> host(size_t(kM * kK + kK * kN));
  for (size_t i = 0; i < host.size(); ++i) host[i] = bf16(float(random.normal(i)));
  void *memory = nullptr, *out = nullptr;
  check(cudaMalloc(&memory, host.size() * sizeof(bf16)));
  auto* in = static_cast<bf16*>(memory);
  check(cudaMalloc(&out, size_t(kM * kN) * sizeof(bf16)));
  check(cudaMemcpy(in, host.data(), host.size() * sizeof(bf16), cudaMemcpyHostToDevice));
  GemmPlans plans;
  const GemmKey key{kM, kN, kK, false, false, int(CUDA_R_16BF), int(CUDA_R_16BF), {}};
  std::vector<bf16> first(size_t(kM * kN)), now(first.size());
  for (int call = 0; call < kCalls; ++call) {
    plans.run(queue.stream(), key, 1, in, in + kM * kK, 0, out, out);
    check(
        cudaMemcpyAsync(now.data(), out, now.size() * sizeof(bf16), cudaMemcpyDeviceToHost, queue.stream()));
    check(cudaStreamSynchronize(queue.stream()));
    if (call == 0) first = now;
    ASSERT_EQ(std::memcmp(first.data(), now.data(), now.size() * sizeof(bf16)), 0) << call;
  }
  cudaFree(memory);
  cudaFree(out);
}

}  // namespace
}  // namespace cadre::device::cuda
