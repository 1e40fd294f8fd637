// Dense kernels of generation, compiled for the host and run on emulated blocks (emulated/grid.h), against the CPU's in double;
// and that the emulator finds what it is for. Needs no GPU, only CUDA's headers.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/launch_behind.cuh"
#include "parallel/device/cuda/queue_cuda.h"
#include "tests/device/cuda/case_arrays.h"

namespace cadre::device {

struct TestMemory {
  explicit TestMemory(size_t bytes) : data_(emulated::take_memory(bytes)) {}
  std::byte* data() const { return data_; }

 private:
  std::byte* data_;
};

}  // namespace cadre::device

#include "tests/device/cuda/generation_checks.h"

namespace cadre::device {
namespace {

using cuda::launch_behind;
using cuda::wait_for_kernel_before;

template <class T>
DeviceKernels<T> emulated_kernels() {
  DeviceKernels<T> table{};
  using K = cuda::CudaKernels<T>;
  table.rms_norm = K::rms_norm;
  table.rms_norm_backward = K::rms_norm_backward;
  table.rope = K::rope;
  table.store_kv = K::store_kv;
  table.place_heads = K::place_heads;
  table.follow_drawn = K::follow_drawn;
  table.paged_attention = K::paged_attention;
  table.sample = K::sample;
  return table;
}

class KernelsEmulated : public testing::Test {
 protected:
  void TearDown() override { emulated::free_memory(); }
  // Guards are pages here (grid.h).
  template <class T>
  void run(const KernelCase<T>& c) {
    CpuQueue cpu_queue(1);
    auto exact = host_arrays<double, T>(c.arrays);
    Arrays<double> reference;
    for (auto& memory : exact) reference.data.push_back(memory.data());
    c.reference(cpu_kernels<double>(), cpu_queue, reference);
    const auto host = host_arrays<T, T>(c.arrays);
    Arrays<T> arrays;
    for (size_t i = 0; i < host.size(); ++i) {
      const bool lists = c.entry == "paged_attention" && c.arrays[i].kind == Kind::kInt;
      arrays.data.push_back(emulated::take_memory(host[i].size(), lists));
      std::memcpy(arrays.data.back(), host[i].data(), host[i].size());
    }
    c.call(emulated_kernels<T>(), queue_, arrays);
    for (size_t i = 0; i < host.size(); ++i) {
      const auto* data = static_cast<const std::byte*>(arrays.data[i]);
      const std::vector<std::byte> found(data, data + host[i].size());
      const std::string what = c.entry + " " + c.shape + " array " + std::to_string(i);
      if (!c.arrays[i].output || c.arrays[i].kind == Kind::kInt) {
        EXPECT_EQ(found, c.arrays[i].output ? exact[i] : host[i]) << what;
      } else {
        EXPECT_LT(worst_ratio<T>(c.arrays[i], exact[i], found), 1) << what;
      }
    }
    emulated::free_memory();
  }
  // Of cases of fewer elements.
  template <class T>
  void run_entry(const std::string& entry, int64_t most, int64_t most_with_cut = 0) {
    for (const auto& c : kernel_cases<T>()) {
      int64_t elements = 0;
      for (const ArraySpec& spec : c.arrays) elements += spec.size;
      // A cut is found by a hundred sums over the block.
      const bool cut = entry == "sample" && c.shape.find("top_k 0 top_p 1 ") == std::string::npos;
      if (c.entry == entry && elements < (cut ? most_with_cut : most)) run<T>(c);
    }
  }
  cuda::CudaQueue queue_;
};

TEST_F(KernelsEmulated, NormsAndAttentionOverPagesEqualTheCpuInDouble) {
  for (const char* entry : {"rms_norm", "rms_norm_backward", "store_kv", "paged_attention"}) {
    run_entry<float>(entry, 50000);
    run_entry<bf16>(entry, entry == std::string("paged_attention") ? 700000 : 50000);
  }
}
TEST_F(KernelsEmulated, DrawnTokensAreTheCpus) {
  run_entry<float>("sample", 50000);
  run_entry<bf16>("sample", 260000, 1000);  // with many equal logits
}
TEST_F(KernelsEmulated, HeadsArePlacedAsByTheKernelsOneByOne) {
  for (const int norm : {0, 1, 2}) {
    expect_heads_are_placed(queue_, emulated_kernels<float>(), 6, 3, 20, norm);
    expect_heads_are_placed(queue_, emulated_kernels<float>(), 4, 4, 16, norm);
    expect_heads_are_placed(queue_, emulated_kernels<bf16>(), 16, 16, 128, norm);
    expect_heads_are_placed(queue_, emulated_kernels<bf16>(), 8, 2, 64, norm);
  }
}
TEST_F(KernelsEmulated, RowsTakeTheTokensThatTheyFollow) {
  expect_tokens_are_followed(queue_, emulated_kernels<bf16>());
}

// ---- The emulator finds what it is for ----

void wait_late(const float* from, float* to) {
  const float v = from[threadIdx.x];
  wait_for_kernel_before();
  to[threadIdx.x] = v;
}
void wait_in_some(const float* from, float* to) {
  if (threadIdx.x >= 32) return;
  wait_for_kernel_before();
  to[threadIdx.x] = from[threadIdx.x];
}
void take_neighbour(const float* from, float* to, bool meet) {
  __shared__ float shared[64];
  wait_for_kernel_before();
  shared[threadIdx.x] = from[threadIdx.x];
  if (meet) __syncthreads();
  to[threadIdx.x] = shared[(threadIdx.x + 33) % 64];
}
void part_of_a_warp(const float*, float* to) {
  wait_for_kernel_before();
  if (threadIdx.x % 32 < 7) to[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
}
void behind_its_end(const float* from, float* to) {
  wait_for_kernel_before();
  to[threadIdx.x + 1] = from[threadIdx.x];
}

class Emulator : public testing::Test {
 protected:
  void TearDown() override { emulated::free_memory(); }
  float* array(float first) {
    auto* const data = reinterpret_cast<float*>(emulated::take_memory(64 * sizeof(float)));
    for (int i = 0; i < 64; ++i) data[i] = first + float(i);
    return data;
  }
  template <class... More>
  std::vector<float> run(void (*kernel)(const float*, float*, More...), More... more) {
    const float* const from = array(first_ += 100);
    float* const to = array(0);
    launch_behind(nullptr, kernel, 1, 64, from, to, more...);
    return {to, to + 64};
  }
  float first_ = 0;  // others each time, as a block finds what the one before left in shared memory
};

TEST_F(Emulator, RefusesKernelsThatDoNotWait) {
  EXPECT_THROW(run(wait_late), std::runtime_error);
  EXPECT_THROW(run(wait_in_some), std::runtime_error);
}
TEST_F(Emulator, RefusesInstructionsOfPartsOfAWarp) {
  EXPECT_THROW(run(part_of_a_warp), std::runtime_error);
}
TEST_F(Emulator, ShowsWhereABarrierIsMissing) {
  const auto expected = [&] {
    std::vector<float> v;
    for (int i = 0; i < 64; ++i) v.push_back(first_ + float((i + 33) % 64));
    return v;
  };
  const std::vector<float> right = run(take_neighbour, true);
  EXPECT_EQ(right, expected());
  const std::vector<float> wrong = run(take_neighbour, false);
  EXPECT_NE(wrong, expected());
}
TEST_F(Emulator, StopsWritesBehindAnArray) {
  EXPECT_DEATH(run(behind_its_end), "");
}

}  // namespace
}  // namespace cadre::device
