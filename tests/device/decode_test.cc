// Kernels of generation: attention over pages against plain attention, and draws against the distribution by hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "parallel/device/kernels.h"
#include "tests/device/tensor.h"

namespace cadre::device {
namespace {

// Sequences of several lengths in pages that lie in no order, with other layers' memory between.
TEST(PagedAttention, EqualsAttentionOverTheSameTokensInARow) {
  using T = double;
  const int64_t heads = 4, kv_heads = 2, h = 6, page_size = 4, row = kv_heads * h, pages_per_row = 40;
  const std::vector<int64_t> lengths = {1, 4, 5, 130, 0};
  const int64_t pages = 50, stride = 3 * page_size * row;
  Tensor<T, 1> memory({pages * stride}, 1);
  const KvPages<T> paged{
      memory.data.data(), memory.data.data() + page_size * row, stride, page_size, kv_heads, h};
  std::vector<int32_t> order(static_cast<size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  const base::Philox rng(5);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.bits(i) % i]);

  std::vector<int32_t> table(lengths.size() * size_t(pages_per_row), -1), owner, length;
  Tensor<T, 3> q({int64_t(lengths.size()), heads, h}, 2), out({int64_t(lengths.size()), heads, h}, 9),
      expected = out;
  CpuQueue queue(3);
  const auto& kernels = cpu_kernels<T>();
  size_t next = 0;
  for (size_t s = 0; s < lengths.size(); ++s) {
    const int64_t n = lengths[s];
    owner.push_back(int32_t(s));
    length.push_back(int32_t(n));
    std::fill_n(expected.data.begin() + int64_t(s) * heads * h, heads * h, 0.0);
    if (n == 0) continue;
    std::vector<int32_t> place;
    for (int64_t i = 0; i < n; ++i) {
      if (i % page_size == 0) table[s * size_t(pages_per_row) + size_t(i / page_size)] = order.at(next++);
      place.push_back(
          int32_t(table[s * size_t(pages_per_row) + size_t(i / page_size)] * page_size + i % page_size));
    }
    const Tensor<T, 3> k({n, kv_heads, h}, 10 + s), v({n, kv_heads, h}, 20 + s);
    kernels.store_kv(queue, k, v, {place.data(), {n}}, paged);
    Tensor<T, 3> one({1, heads, h}), query({1, heads, h});
    std::copy_n(q.data.begin() + int64_t(s) * heads * h, heads * h, query.data.begin());
    Tensor<T, 2> lse({1, heads});
    kernels.attention(queue,
                      {.num_sequences = 1,
                       .seq_len = 1,
                       .num_heads = heads,
                       .num_kv_heads = kv_heads,
                       .head_dim = h,
                       .num_past = n - 1},
                      query, k, v, {}, one, lse);
    std::copy(one.data.begin(), one.data.end(), expected.data.begin() + int64_t(s) * heads * h);
  }
  kernels.paged_attention(queue, q, paged, {table.data(), {int64_t(lengths.size()), pages_per_row}},
                          {owner.data(), {int64_t(owner.size())}}, {length.data(), {int64_t(length.size())}},
                          out);
  EXPECT_LT(max_difference(out, expected), 1e-12);
}

TEST(PagedAttention, RowsWithoutAPlaceAreNotStored) {
  CpuQueue queue(1);
  Tensor<float, 1> memory({64}, 1);
  const std::vector<float> before = memory.data;
  const KvPages<float> paged{memory.data.data(), memory.data.data() + 16, 32, 4, 1, 4};
  const Tensor<float, 3> k({2, 1, 4}, 2);
  const std::vector<int32_t> place = {-1, -1};
  cpu_kernels<float>().store_kv(queue, k, k, {place.data(), {2}}, paged);
  EXPECT_EQ(memory.data, before);
}

// Probabilities of the cut distribution, by sorting in double.
std::vector<double> probabilities(const std::vector<double>& logits, const SampleShape& shape) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  size_t kept = shape.top_k > 0 ? std::min(size_t(shape.top_k), order.size()) : order.size();
  const auto weight = [&](size_t i) { return std::exp(logits[order[i]] / shape.temperature); };
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += weight(i);
  double mass = 0;
  size_t count = 0;
  while (count < kept && (count == 0 || mass / sum < shape.top_p)) mass += weight(count++);
  std::vector<double> p(logits.size(), 0);
  for (size_t i = 0; i < count; ++i) p[order[i]] = weight(i) / mass;
  return p;
}

TEST(Sample, DrawsEachTokenOverItsOwnStretchOfTheUniformNumber) {
  // Two equal logits, so that a cut between them shows which one is kept.
  const std::vector<double> logits = {0.3, 2.0, -1.0, 2.0, 1.5, -4.0, 0.9};
  const int64_t width = int64_t(logits.size()), rows = 2000;
  CpuQueue queue(2);
  for (const SampleShape& shape :
       {SampleShape{}, SampleShape{.temperature = 0.5}, SampleShape{.temperature = 3, .top_k = 3},
        SampleShape{.top_k = 1}, SampleShape{.top_p = 0.7},
        SampleShape{.temperature = 1.3, .top_k = 5, .top_p = 0.9}, SampleShape{.top_p = 1e-9}}) {
    const std::vector<double> p = probabilities(logits, shape);
    Tensor<double, 2> x({rows, width});
    std::vector<double> uniform, logp(static_cast<size_t>(rows));
    std::vector<int32_t> token(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
      std::copy(logits.begin(), logits.end(), x.data.begin() + r * width);
      uniform.push_back((double(r) + 0.5) / double(rows));
    }
    cpu_kernels<double>().sample(queue, x, shape, {uniform.data(), {rows}}, {token.data(), {rows}},
                                 {logp.data(), {rows}});
    for (int64_t r = 0; r < rows; ++r) {
      double below = 0;
      size_t expected = 0;
      for (; expected + 1 < p.size() && below + p[expected] <= uniform[size_t(r)]; ++expected)
        below += p[expected];
      ASSERT_EQ(token[size_t(r)], int32_t(expected)) << "top_k " << shape.top_k << " top_p " << shape.top_p;
      ASSERT_NEAR(logp[size_t(r)], std::log(p[expected]), 1e-12);
    }
  }
}

TEST(Sample, TemperatureZeroTakesTheLikeliestWithCertainty) {
  const Tensor<float, 2> x({3, 50}, 4);
  const std::vector<double> uniform(3, 0.999);
  std::vector<int32_t> token(3);
  std::vector<float> logp(3, -7);
  CpuQueue queue(1);
  cpu_kernels<float>().sample(queue, x, {.temperature = 0}, {uniform.data(), {3}}, {token.data(), {3}},
                              {logp.data(), {3}});
  for (int64_t r = 0; r < 3; ++r) {
    const float* row = x.data.data() + r * 50;
    EXPECT_EQ(token[size_t(r)], std::max_element(row, row + 50) - row);
    EXPECT_EQ(logp[size_t(r)], 0);
  }
}

// What the trainer's log_prob says of the drawn token.
TEST(Sample, LogProbabilityIsThatOfTheTrainersKernel) {
  const int64_t rows = 40, width = 3000;
  const Tensor<float, 2> x({rows, width}, 4, 3);
  std::vector<double> uniform;
  for (int64_t r = 0; r < rows; ++r) uniform.push_back(base::Philox(8).uniform(uint64_t(r)));
  std::vector<int32_t> token(static_cast<size_t>(rows));
  std::vector<float> logp(static_cast<size_t>(rows)), again = logp, lse = logp;
  CpuQueue queue(2);
  cpu_kernels<float>().sample(queue, x, {}, {uniform.data(), {rows}}, {token.data(), {rows}},
                              {logp.data(), {rows}});
  cpu_kernels<float>().log_prob(queue, x, {token.data(), {rows}}, {again.data(), {rows}},
                                {lse.data(), {rows}});
  for (size_t r = 0; r < size_t(rows); ++r) EXPECT_NEAR(logp[r], again[r], 3e-6);
}

}  // namespace
}  // namespace cadre::device
