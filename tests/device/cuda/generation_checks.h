// What the kernels of generation that have no row in kernel_cases.h must do. The program that includes this has a class
// TestMemory(bytes) with data(), of the device.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"

namespace cadre::device {

template <class T>
class OnDevice {
 public:
  OnDevice(Queue& queue, const std::vector<T>& values)
      : queue_(queue), size_(int64_t(values.size())), memory_(values.size() * sizeof(T)) {
    queue.upload(values.data(), memory_.data(), bytes());
  }
  template <int N>
  View<T, N> view(std::array<int64_t, N> shape) const {
    return {reinterpret_cast<T*>(memory_.data()), shape};
  }
  View<T, 1> all() const { return view<1>({size_}); }
  std::vector<T> get() const {
    std::vector<T> values(static_cast<size_t>(size_));
    queue_.download(memory_.data(), values.data(), bytes());
    queue_.wait();
    return values;
  }

 private:
  size_t bytes() const { return size_t(size_) * sizeof(T); }

  Queue& queue_;
  int64_t size_;
  TestMemory memory_;
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
void expect_heads_are_placed(Queue& queue, const DeviceKernels<T>& kernels, int64_t heads, int64_t kv_heads,
                             int64_t h, int norm) {
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

inline void expect_tokens_are_followed(Queue& queue, const DeviceKernels<bf16>& kernels) {
  constexpr int kDrawn = 70, kRows = 300;
  std::vector<int32_t> drawn, follows, token, expected;
  for (int i = 0; i < kDrawn; ++i) drawn.push_back(1000 + i);
  for (int i = 0; i < kRows; ++i) {
    token.push_back(i);
    follows.push_back(i % 3 == 1 ? -1 : (7 * i) % kDrawn);
    expected.push_back(i % 3 == 1 ? i : 1000 + (7 * i) % kDrawn);
  }
  const OnDevice<int32_t> from(queue, drawn), which(queue, follows), to(queue, token);
  kernels.follow_drawn(queue, from.all(), which.all(), to.all());
  EXPECT_EQ(to.get(), expected);
}

}  // namespace cadre::device
