// A product that is used often gets the fastest of several algorithms, and the same bits as before.
#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/bf16.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/equal_bits.h"
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

// A product of zeros has the same bits in every order of adding up, and of what came from few places nearly so.
TEST(CudaGemm, ValuesThatSayNothingAboutTheOrderOfSumsAreKnown) {
  const Probe probe = accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  CudaQueue queue(0);
  constexpr size_t kCount = 100'003;
  bf16* memory = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&memory), kCount * sizeof(bf16)));
  for (const auto& [every, many] : {std::pair<size_t, bool>{0, false}, {17, false}, {15, true}, {1, true}}) {
    std::vector<bf16> host(kCount, bf16(-0.0f));
    for (size_t i = 0; every > 0 && i < kCount; i += every) host[i] = bf16(1.0f);
    check(cudaMemcpy(memory, host.data(), kCount * sizeof(bf16), cudaMemcpyHostToDevice));
    EXPECT_EQ(has_many_values(queue.stream(), memory, kCount * sizeof(bf16)), many) << "every " << every;
  }
  cudaFree(memory);
}

// As long as an operand is 0 nothing is tried: what comes behind has the bits of a plan that never saw zeros.
TEST(CudaGemm, ZerosDoNotChooseAnAlgorithm) {
  constexpr int64_t kM = 1024, kN = 1024,
                    kK = 8192;  // few tiles and a long sum, which algorithms like to split
  constexpr int kCalls = 50;    // 4.3e11 multiply-adds
  const Probe probe = accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  CudaQueue queue(0);
  const base::Philox random(4);
  std::vector<bf16> host(size_t(kM * kK + kK * kN)), found(size_t(kM * kN)), expected(found.size());
  for (size_t i = 0; i < host.size(); ++i) host[i] = bf16(float(random.normal(i)));
  const size_t bytes = found.size() * sizeof(bf16);
  bf16 *in = nullptr, *out = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&in), host.size() * sizeof(bf16)));
  check(cudaMalloc(reinterpret_cast<void**>(&out), bytes));
  const GemmKey key{kM, kN, kK, true, false, int(CUDA_R_16BF), int(CUDA_R_16BF), {}};
  const auto product = [&](GemmPlans& plans, std::vector<bf16>& to) {
    plans.run(queue.stream(), key, 1, in, in + kM * kK, 0, out, out);
    check(cudaMemcpyAsync(to.data(), out, bytes, cudaMemcpyDeviceToHost, queue.stream()));
    check(cudaStreamSynchronize(queue.stream()));
  };
  GemmPlans plans, fresh;
  check(cudaMemset(in, 0, host.size() * sizeof(bf16)));
  check(cudaDeviceSynchronize());
  for (int call = 0; call < kCalls; ++call) product(plans, found);
  check(cudaMemcpy(in, host.data(), host.size() * sizeof(bf16), cudaMemcpyHostToDevice));
  product(plans, found);
  product(fresh, expected);
  EXPECT_EQ(std::memcmp(found.data(), expected.data(), bytes), 0);
  cudaFree(in);
  cudaFree(out);
}

}  // namespace
}  // namespace cadre::device::cuda
