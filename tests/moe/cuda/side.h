// A table of MoE kernels with a queue and memory to call it on: the same test body runs on the CPU in double and
// on the GPU, on the same (rounded) numbers.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <vector>

#include "moe/cuda/entries.h"
#include "parallel/base/rng.h"
#include "parallel/device/accelerator.h"
#include "parallel/device/bf16.h"
#include "parallel/device/memory.h"

namespace cadre::moe {

template <class X>
class Side {
 public:
  using Number = X;
  using W = device::wide_t<X>;
  using Take = std::byte* (*)(size_t bytes);
  // take: of memory that somebody else frees; null for the device's.
  Side(device::Queue& queue, const MoeKernels<X>& table, Take take = nullptr)
      : queue(queue), table(table), take_(take) {}

  // Values of type U with this content.
  template <class U, int N>
  device::View<U, N> put(const std::vector<double>& values, std::array<int64_t, N> shape) {
    std::vector<U> host(values.size());
    for (size_t i = 0; i < values.size(); ++i) host[i] = U(values[i]);
    // Never empty: a view of nothing would have no memory to be told apart from a missing one.
    std::byte* const data = memory(std::max<size_t>(16, host.size() * sizeof(U)));
    queue.upload(host.data(), data, host.size() * sizeof(U));
    return {reinterpret_cast<U*>(data), shape};
  }
  // For what is only written: every element is NaN, or -7 for integers.
  template <class U, int N>
  device::View<U, N> poison(std::array<int64_t, N> shape) {
    const size_t n = size_t(device::View<U, N>(nullptr, shape).size());
    return put<U, N>(std::vector<double>(n, std::is_integral_v<U> ? -7 : std::nan("")), shape);
  }
  template <class U, int N>
  std::vector<double> get(const device::View<U, N>& view) {
    std::vector<std::remove_const_t<U>> host(size_t(view.size()));
    queue.download(view.data(), host.data(), host.size() * sizeof(U));
    queue.wait();
    return {host.begin(), host.end()};
  }

  device::Queue& queue;
  const MoeKernels<X>& table;

 private:
  std::byte* memory(size_t bytes) {
    if (take_ != nullptr) return take_(bytes);
    return memory_.emplace_back(queue.kind(), bytes).data();
  }
  Take take_;
  std::deque<device::Buffer> memory_;
};

// Standard normals that T can hold.
template <class T>
std::vector<double> numbers(size_t n, uint64_t key, double scale = 1) {
  const base::Philox random(base::mix(key, 31));
  std::vector<double> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = double(float(T(scale * random.normal(i))));
  return values;
}

using Results = std::vector<std::vector<double>>;

// Runs a test's body on both sides; skipped without a GPU.
template <class T>
class BothSides : public testing::Test {
 public:
  template <class Body>
  Results on_cpu(const Body& body) {
    Side<double> side(cpu_queue, cpu_moe_kernels<double>());
    return body(side);
  }
  template <class Body>
  Results on_gpu(const Body& body) {
    Side<T> side(*gpu_queue, cuda_moe_kernels<T>());
    return body(side);
  }

 protected:
  void SetUp() override {
    const auto& gpu = device::accelerator(device::DeviceKind::kCuda);
    if (gpu.probe().num_devices == 0) GTEST_SKIP() << gpu.probe().report;
    gpu_queue = gpu.make_queue(0);
  }
  device::CpuQueue cpu_queue{2};
  std::unique_ptr<device::Queue> gpu_queue;
};

// |a - b| <= bound * |b| in the 2-norm; NaN only where the other has one.
inline void expect_close(const std::vector<double>& a, const std::vector<double>& b, double bound,
                         const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::isnan(a[i]), std::isnan(b[i])) << what << ", element " << i;
    if (std::isnan(b[i]) || a[i] == b[i]) continue;
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  EXPECT_LE(std::sqrt(difference), bound * std::sqrt(norm)) << what;
}

inline void expect_same(const Results& a, const Results& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].size(), b[i].size());
    EXPECT_EQ(std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(double)), 0) << "result " << i;
  }
}

// Of a sum of up to `terms` products in fp32, rounded to T at the end: relative to the norm of the result.
template <class T>
double product_bound(int64_t terms) {
  const double inner = 0x1p-24 * std::sqrt(double(terms)) * 4;
  return inner + (std::is_same_v<T, device::bf16> ? 0x1p-9 : 0);
}

using Storages = testing::Types<float, device::bf16>;

}  // namespace cadre::moe
