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
#include "tests/device/cuda/kernel_cases.h"

namespace cadre::device {
namespace {

using cuda::check;

constexpr size_t kGuard = 64;  // bytes of a known pattern behind each array

size_t bytes_of(const ArraySpec& spec, size_t narrow, size_t wide) {
  const size_t sizes[] = {narrow, wide, sizeof(int32_t), sizeof(double)};
  return size_t(spec.size) * sizes[int(spec.kind)];
}

// The arrays of a case in host memory, element type X; the random numbers are those that T can hold.
template <class X, class T>
std::vector<std::vector<std::byte>> host_arrays(const std::vector<ArraySpec>& specs) {
  std::vector<std::vector<std::byte>> result;
  for (size_t a = 0; a < specs.size(); ++a) {
    const ArraySpec& spec = specs[a];
    std::vector<std::byte> memory(bytes_of(spec, sizeof(X), sizeof(wide_t<X>)));
    const base::Philox rng(base::mix(a, 9));
    for (int64_t i = 0; i < spec.size; ++i) {
      const double value =
          spec.scale == 0 ? std::nan("") : spec.offset + spec.scale * rng.normal(uint64_t(i));
      if (spec.kind == Kind::kInt) {
        reinterpret_cast<int32_t*>(memory.data())[i] = spec.ints[size_t(i)];
      } else if (spec.kind == Kind::kDouble) {
        reinterpret_cast<double*>(memory.data())[i] = spec.doubles[size_t(i)];
      } else if (spec.kind == Kind::kWide) {
        reinterpret_cast<wide_t<X>*>(memory.data())[i] = wide_t<X>(wide_t<T>(value));
      } else {
        reinterpret_cast<X*>(memory.data())[i] = X(double(T(value)));
      }
    }
    result.push_back(std::move(memory));
  }
  return result;
}

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

template <class X>
double element(const std::vector<std::byte>& memory, int64_t i) {
  return double(reinterpret_cast<const X*>(memory.data())[i]);
}

// Worst error over its bound, of elements and of the array's norm; below 1 is right.
template <class T>
double worst_ratio(const ArraySpec& spec, const std::vector<std::byte>& exact,
                   const std::vector<std::byte>& found) {
  const bool wide = spec.kind == Kind::kWide;
  const double half_float = 0x1p-24, half = !wide && std::is_same_v<T, bf16> ? 0x1p-8 : half_float;
  double squares = 0, worst = 0, errors = 0;
  for (int64_t i = 0; i < spec.size; ++i) squares += std::pow(element<double>(exact, i), 2);
  // The numbers that go in are about 1: a sum of them that happens to be 0 has their errors all the same.
  const double typical = std::max(0.3, std::sqrt(squares / double(std::max<int64_t>(spec.size, 1))));
  for (int64_t i = 0; i < spec.size; ++i) {
    const double x = element<double>(exact, i),
                 y = wide ? element<wide_t<T>>(found, i) : element<T>(found, i);
    const double scale = typical + std::abs(x);
    const double bound = 1.01 * half * (std::abs(x) + (spec.roundings - 1) * 4 * scale + spec.inner * scale) +
                         4 * half_float * std::sqrt(spec.terms) * scale;
    const double ratio = x == y ? 0 : std::abs(x - y) / bound;
    if (!(ratio <= worst)) worst = ratio;  // NaN counts as the worst
    errors += (x - y) * (x - y);
  }
  const double norm_bound =
      half * (spec.roundings + (spec.inner > 0 ? 1 : 0)) + half_float * std::sqrt(spec.terms);
  const double norm_ratio =
      std::sqrt(errors / double(std::max<int64_t>(spec.size, 1))) / (typical * norm_bound);
  return norm_ratio <= worst ? worst : norm_ratio;
}

// CADRE_TEST_CASES=short: small cases only, once each. For tools that make kernels a thousand times slower.
bool short_runs() {
  const char* cases = std::getenv("CADRE_TEST_CASES");
  return cases != nullptr && std::string(cases) == "short";
}
bool too_long(const std::vector<ArraySpec>& arrays) {
  int64_t elements = 0;
  for (const ArraySpec& spec : arrays) elements += spec.size;
  return short_runs() && elements > 250000;
}

template <class T>
void run_case(cuda::CudaQueue& queue, const DeviceKernels<T>& kernels, const KernelCase<T>& c) {
  if (too_long(c.arrays)) return;
  CpuQueue cpu_queue(2);
  const std::string name = c.entry + " " + c.shape;
  auto exact = host_arrays<double, T>(c.arrays);
  Arrays<double> reference;
  for (auto& memory : exact) reference.data.push_back(memory.data());
  c.reference(cpu_kernels<double>(), cpu_queue, reference);
  const auto host = host_arrays<T, T>(c.arrays);
  std::vector<std::vector<std::byte>> first;
  for (const size_t shift :
       short_runs() ? std::vector<size_t>{0} : std::vector<size_t>{0, 0, sizeof(wide_t<T>)}) {
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

// Rows that CUDA does not have yet are null.
TEST(CudaKernelCases, CoverEveryRowOfTheTable) {
  std::array<void*, sizeof(DeviceKernels<float>) / sizeof(void*)> rows;
  static_assert(sizeof(rows) == sizeof(DeviceKernels<float>));
  std::memcpy(rows.data(), &cuda_kernels<float>(), sizeof(rows));
  EXPECT_EQ(entries().size(), rows.size() - size_t(std::count(rows.begin(), rows.end(), nullptr)));
}

}  // namespace
}  // namespace cadre::device
