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

template <class T>
class OnDevice {
 public:
  OnDevice(Queue& queue, const std::vector<T>& values)
      : queue_(queue), size_(int64_t(values.size())), memory_(DeviceKind::kCuda, values.size() * sizeof(T)) {
    queue.upload(values.data(), memory_.data(), memory_.bytes());
  }
  template <int N>
  View<T, N> view(std::array<int64_t, N> shape) const {
    return {reinterpret_cast<T*>(memory_.data()), shape};
  }
  View<T, 1> all() const { return view<1>({size_}); }
  std::vector<T> get() const {
    std::vector<T> values(static_cast<size_t>(size_));
    queue_.download(memory_.data(), values.data(), memory_.bytes());
    queue_.wait();
    return values;
  }

 private:
  Queue& queue_;
  int64_t size_;
  Buffer memory_;
};

template <class T>
std::vector<T> normals(int64_t n, uint64_t key) {
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(T(float(base::Philox(key).normal(uint64_t(i)))));
  return values;
}

// norm: 0 none, 1 of each head, 2 of whole rows. The table's kernels round at the same places and sum squares in another
// order, so that a rounding to T may fall the other way here and there.
template <class T>
void expect_heads_are_placed(int64_t heads, int64_t kv_heads, int64_t h, int norm) {
  cuda::CudaQueue queue(0);
  const auto& kernels = cuda_kernels<T>();
  constexpr int64_t kRows = 5, kPageSize = 4, kPages = 6, kPositions = 40;
  const int64_t q_width = heads * h, kv_width = kv_heads * h, stride = 2 * kPageSize * kv_width + 16;
  const OnDevice<T> q(queue, normals<T>(kRows * q_width, 1)), k(queue, normals<T>(kRows * kv_width, 2)),
      v(queue, normals<T>(kRows * kv_width, 3)), q_weight(queue, normals<T>(norm == 1 ? h : q_width, 4)),
      k_weight(queue, normals<T>(norm == 1 ? h : kv_width, 5));
  const OnDevice<float> table(queue, normals<float>(kPositions * h, 6)),
      rstd(queue, normals<float>(kRows * heads, 7));
  const OnDevice<int32_t> position(queue, {3, 39, 0, 17, 5}), place(queue, {9, 23, -1, 0, 14});
  std::vector<T> pages[2], queries[2];
  for (const bool fused : {false, true}) {
    const OnDevice<T> memory(queue, normals<T>(kPages * stride, 8)), q_out(queue, q.get()),
        k_out(queue, k.get());
    const KvPages<T> at{
        memory.all().data(), memory.all().data() + kPageSize * kv_width, stride, kPageSize, kv_heads, h};
    const View<T, 3> q3 = q_out.template view<3>({kRows, heads, h}),
                     k3 = k_out.template view<3>({kRows, kv_heads, h}),
                     v3 = v.template view<3>({kRows, kv_heads, h});
    const View<const float, 2> angles = table.view<2>({kPositions, h});
    if (fused) {
      NewHeads<T> n{.q = q3,
                    .k = k3,
                    .v = v3,
                    .q_weight = {},
                    .k_weight = {},
                    .eps = 1e-3,
                    .position = position.all(),
                    .table = angles,
                    .place = place.all(),
                    .pages = at,
                    .q_out = q3};
      if (norm > 0) n.q_weight = q_weight.all(), n.k_weight = k_weight.all();
      kernels.place_heads(queue, n);
    } else {
      const auto normed = [&](const OnDevice<T>& from, const OnDevice<T>& weight, const OnDevice<T>& to,
                              int64_t width) {
        const int64_t each = norm == 1 ? h : width, rows = kRows * width / each;
        kernels.rms_norm(queue, from.template view<2>({rows, each}), weight.all(), 1e-3,
                         to.template view<2>({rows, each}), rstd.view<1>({rows}));
      };
      if (norm > 0) normed(q, q_weight, q_out, q_width), normed(k, k_weight, k_out, kv_width);
      kernels.rope(queue, q3, position.all(), angles, false);
      kernels.rope(queue, k3, position.all(), angles, false);
      kernels.store_kv(queue, k3, v3, place.all(), at);
    }
    pages[fused] = memory.get();
    queries[fused] = q_out.get();
  }
  const auto expect_near = [&](const std::vector<T>& got, const std::vector<T>& expected, const char* what) {
    double difference = 0, sum = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double a = double(float(got[i])), b = double(float(expected[i]));
      difference += (a - b) * (a - b);
      sum += b * b;
    }
    const double bound = std::is_same_v<T, float> ? 1e-6 : 1e-3;
    EXPECT_LE(std::sqrt(difference), bound * std::sqrt(sum))
        << what << ", " << heads << " heads of " << h << ", norm " << norm;
  };
  expect_near(queries[1], queries[0], "queries");
  expect_near(pages[1], pages[0], "pages");
}

TEST(CudaPlaceHeads, DoesWhatTheKernelsDoOneByOne) {
  const Probe probe = cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  for (const int norm : {0, 1, 2}) {
    expect_heads_are_placed<float>(6, 3, 20, norm);
    expect_heads_are_placed<float>(4, 4, 16, norm);
    expect_heads_are_placed<bf16>(6, 3, 20, norm);
    expect_heads_are_placed<bf16>(16, 16, 128, norm);
    expect_heads_are_placed<bf16>(8, 2, 64, norm);
  }
}

TEST(CudaFollowDrawn, RowsTakeTheTokensThatTheyFollow) {
  const Probe probe = cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  cuda::CudaQueue queue(0);
  constexpr int kDrawn = 70, kRows = 300;
  std::vector<int32_t> drawn, follows, token, expected;
  for (int i = 0; i < kDrawn; ++i) drawn.push_back(1000 + i);
  for (int i = 0; i < kRows; ++i) {
    token.push_back(i);
    follows.push_back(i % 3 == 1 ? -1 : (7 * i) % kDrawn);
    expected.push_back(i % 3 == 1 ? i : 1000 + (7 * i) % kDrawn);
  }
  const OnDevice<int32_t> from(queue, drawn), which(queue, follows), to(queue, token);
  device_kernels<bf16>(DeviceKind::kCuda).follow_drawn(queue, from.all(), which.all(), to.all());
  EXPECT_EQ(to.get(), expected);
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
