// Every row of CUDA's table of dense kernels, for both of its types, against the CPU's kernels in double on the
// same (rounded) numbers: at any alignment, with the same bits again, and with nothing written past the end.
#include "parallel/device/cuda/kernels_cuda.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/own_attention.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/memory.h"
#include "tests/device/cuda/case_arrays.h"

namespace cadre::device {

struct TestMemory : Buffer {
  explicit TestMemory(size_t bytes) : Buffer(DeviceKind::kCuda, bytes) {}
};

}  // namespace cadre::device

#include "tests/device/cuda/generation_checks.h"

namespace cadre::device {
namespace {

using cuda::check;

constexpr size_t kGuard = 64;  // bytes of a known pattern behind each array

// Device copies of host arrays, each `shift` bytes behind a 256-byte boundary (doubles none), with a guard behind.
class DeviceArrays {
 public:
  DeviceArrays(const std::vector<ArraySpec>& specs, const std::vector<std::vector<std::byte>>& host,
               size_t shift)
      : host_(host) {
    for (size_t i = 0; i < host.size(); ++i) {
      const auto& memory = host[i];
      shifts_.push_back(specs[i].kind == Kind::kDouble ? 0 : shift);
      void* block = nullptr;
      check(cudaMalloc(&block, shifts_[i] + memory.size() + kGuard));
      check(cudaMemset(block, 0x5a, shifts_[i] + memory.size() + kGuard));
      std::byte* data = static_cast<std::byte*>(block) + shifts_[i];
      check(cudaMemcpy(data, memory.data(), memory.size(), cudaMemcpyHostToDevice));
      blocks_.push_back(block);
      data_.push_back(data);
    }
    check(cudaDeviceSynchronize());
  }
  ~DeviceArrays() {
    for (void* block : blocks_) cudaFree(block);
  }
  const std::vector<void*>& data() const { return data_; }
  std::vector<std::byte> read(size_t i) const {
    std::vector<std::byte> result(host_[i].size());
    check(cudaMemcpy(result.data(), data_[i], result.size(), cudaMemcpyDeviceToHost));
    return result;
  }
  bool guards_hold() const {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      std::vector<unsigned char> guard(shifts_[i] + kGuard);
      check(cudaMemcpy(guard.data(), blocks_[i], shifts_[i], cudaMemcpyDeviceToHost));
      check(cudaMemcpy(guard.data() + shifts_[i], static_cast<std::byte*>(data_[i]) + host_[i].size(), kGuard,
                       cudaMemcpyDeviceToHost));
      for (const unsigned char c : guard) {
        if (c != 0x5a) return false;
      }
    }
    return true;
  }

 private:
  const std::vector<std::vector<std::byte>>& host_;
  std::vector<size_t> shifts_;
  std::vector<void*> blocks_, data_;
};

// CADRE_TEST_CASES=short: small cases only, once each; any other text: those with it in their names, once each. For tools
// that make kernels a thousand times slower.
std::string chosen_cases() {
  const char* cases = std::getenv("CADRE_TEST_CASES");
  return cases == nullptr ? "" : cases;
}
bool left_out(const std::string& name, const std::vector<ArraySpec>& arrays) {
  const std::string chosen = chosen_cases();
  int64_t elements = 0;
  for (const ArraySpec& spec : arrays) elements += spec.size;
  return chosen == "short" ? elements > 250000 : name.find(chosen) == std::string::npos;
}

template <class T>
void run_case(cuda::CudaQueue& queue, const DeviceKernels<T>& kernels, const KernelCase<T>& c) {
  const std::string name = c.entry + " " + c.shape;
  if (left_out(name, c.arrays)) return;
  CpuQueue cpu_queue(2);
  auto exact = host_arrays<double, T>(c.arrays);
  Arrays<double> reference;
  for (auto& memory : exact) reference.data.push_back(memory.data());
  c.reference(cpu_kernels<double>(), cpu_queue, reference);
  const auto host = host_arrays<T, T>(c.arrays);
  std::vector<std::vector<std::byte>> first;
  for (const size_t shift :
       !chosen_cases().empty() ? std::vector<size_t>{0} : std::vector<size_t>{0, 0, sizeof(wide_t<T>)}) {
    DeviceArrays arrays(c.arrays, host, shift);
    c.call(kernels, queue, Arrays<T>{arrays.data()});
    queue.wait();
    EXPECT_TRUE(arrays.guards_hold()) << name << " wrote past the end of an array, shift " << shift;
    for (size_t i = 0; i < c.arrays.size(); ++i) {
      const auto found = arrays.read(i);
      if (first.size() == i) first.push_back(found);
      if (shift == 0) {
        EXPECT_EQ(found, first[i]) << name << " array " << i << " differs on repetition";
      }
      if (!c.arrays[i].output) {
        EXPECT_EQ(found, host[i]) << name << " changed its input " << i;
        continue;
      }
      if (c.arrays[i].kind == Kind::kInt) {
        EXPECT_EQ(found, exact[i]) << name << " array " << i << " shift " << shift;
        continue;
      }
      EXPECT_LT(worst_ratio<T>(c.arrays[i], exact[i], found), 1)
          << name << " array " << i << " shift " << shift;
    }
  }
}

std::set<std::string> entries() {
  std::set<std::string> result;
  for (const auto& c : kernel_cases<float>()) result.insert(c.entry);
  return result;
}

class CudaKernelTable : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const Probe probe = cuda::accelerator_cuda().probe();
    if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  }
  template <class T>
  void run_entry() {
    cuda::CudaQueue queue(0);
    for (const auto& c : kernel_cases<T>()) {
      if (c.entry == GetParam()) run_case<T>(queue, cuda_kernels<T>(), c);
    }
  }
};

TEST_P(CudaKernelTable, EqualsTheCpuInDoubleForFloat) {
  run_entry<float>();
}
TEST_P(CudaKernelTable, EqualsTheCpuInDoubleForBf16) {
  run_entry<bf16>();
}
INSTANTIATE_TEST_SUITE_P(Entries, CudaKernelTable, testing::ValuesIn(entries()),
                         [](const auto& info) { return info.param; });

// Also where the table would seldom take them: cuDNN is there, or the GPU is newer.
void check_attention(decltype(DeviceKernels<bf16>::attention) forward,
                     decltype(DeviceKernels<bf16>::attention_backward) backward) {
  const Probe probe = cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  cuda::CudaQueue queue(0);
  DeviceKernels<bf16> kernels = cuda_kernels<bf16>();
  kernels.attention = forward;
  kernels.attention_backward = backward;
  for (const auto& c : kernel_cases<bf16>()) {
    if (c.entry.find("attention") == 0) run_case<bf16>(queue, kernels, c);
  }
}
TEST(CudaOwnAttention, EqualsTheCpuInDouble) {
  check_attention(cuda::own_attention<bf16>, cuda::own_attention_backward<bf16>);
}
TEST(CudaPortableAttention, EqualsTheCpuInDouble) {
  check_attention(cuda::portable_attention<bf16>, cuda::portable_attention_backward<bf16>);
}

TEST(CudaPlaceHeads, DoesWhatTheKernelsDoOneByOne) {
  const Probe probe = cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  cuda::CudaQueue queue(0);
  for (const int norm : {0, 1, 2}) {
    expect_heads_are_placed(queue, cuda_kernels<float>(), 6, 3, 20, norm);
    expect_heads_are_placed(queue, cuda_kernels<float>(), 4, 4, 16, norm);
    expect_heads_are_placed(queue, cuda_kernels<bf16>(), 6, 3, 20, norm);
    expect_heads_are_placed(queue, cuda_kernels<bf16>(), 16, 16, 128, norm);
    expect_heads_are_placed(queue, cuda_kernels<bf16>(), 8, 2, 64, norm);
  }
}

TEST(CudaFollowDrawn, RowsTakeTheTokensThatTheyFollow) {
  const Probe probe = cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  cuda::CudaQueue queue(0);
  expect_tokens_are_followed(queue, cuda_kernels<bf16>());
}

// Rows that CUDA does not have yet are null.
TEST(CudaKernelCases, CoverEveryRowOfTheTable) {
  std::array<void*, sizeof(DeviceKernels<float>) / sizeof(void*)> rows;
  static_assert(sizeof(rows) == sizeof(DeviceKernels<float>));
  std::memcpy(rows.data(), &cuda_kernels<float>(), sizeof(rows));
  constexpr size_t kApart = 2;  // place_heads and follow_drawn, which have tests of their own above
  EXPECT_EQ(entries().size() + kApart, rows.size() - size_t(std::count(rows.begin(), rows.end(), nullptr)));
}

}  // namespace
}  // namespace cadre::device
