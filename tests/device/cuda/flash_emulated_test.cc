// The attention kernels of sm_90a, compiled for the host and run on an emulated block (emulated/machine.h), against sums in
// double: what they compute, that they wait for what they read, and that they end. Needs no GPU, only CUDA's headers.
#include "parallel/device/cuda/flash_hopper_backward.cu"
#include "parallel/device/cuda/flash_hopper_dkv.cu"
#include "parallel/device/cuda/flash_hopper_dq.cu"
#include "parallel/device/cuda/flash_hopper_forward.cu"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "parallel/device/bf16.h"

namespace cadre::device::cuda::hopper {
namespace {

struct Shape {
  int sequences, length, heads, kv_heads, head, mean;  // mean: of the documents' lengths, 0 for no documents
};
using Values = std::vector<bf16>;

Values random_values(size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Values v;
  for (size_t i = 0; i < n; ++i) v.push_back(bf16(normal(random)));
  return v;
}
CUtensorMap map_of(const Shape& s, const Values& v, int heads, int box_rows) {
  const ptx::TensorMap m{reinterpret_cast<const uint16_t*>(v.data()), s.sequences, s.length, heads * s.head,
                         box_rows};
  CUtensorMap map;
  static_assert(sizeof(m) <= sizeof(map));
  std::memcpy(&map, &m, sizeof(m));
  return map;
}

// All inputs and results of one shape, and the results in double.
struct Problem {
  Shape s;
  std::vector<int32_t> segment;
  std::vector<Document> documents;
  Values q, k, v, dout, out, dq, dk, dv;
  std::vector<float> lse;
  std::vector<double> out_exact, lse_exact, dq_exact, dk_exact, dv_exact;

  explicit Problem(const Shape& shape, std::mt19937& random) : s(shape) {
    const size_t tokens = size_t(s.sequences) * size_t(s.length), row = size_t(s.heads * s.head),
                 kv_row = size_t(s.kv_heads * s.head);
    q = random_values(tokens * row, random), dout = random_values(tokens * row, random);
    k = random_values(tokens * kv_row, random), v = random_values(tokens * kv_row, random);
    out.resize(tokens * row, bf16(7.f)), dq = out;
    dk.resize(tokens * kv_row, bf16(7.f)), dv = dk;
    lse.resize(tokens * size_t(s.heads), 7.f);
    int own = 0, left = 0;
    for (int at = 0; s.mean > 0 && at < int(tokens); ++at, --left) {
      if (left == 0 || at % s.length == 0) left = 1 + int(random() % unsigned(2 * s.mean - 1)), ++own;
      segment.push_back(own);
    }
    for (int at = 0; at < int(segment.size()); ++at)
      documents.push_back(document_of(segment.data() + at / s.length * s.length, s.length, at % s.length));
    solve();
  }
  size_t at(int sequence, int token, int head, int heads) const {
    return size_t(((int64_t(sequence) * s.length + token) * heads + head) * s.head);
  }
  void solve() {
    out_exact.resize(q.size()), dq_exact.resize(q.size()), lse_exact.resize(lse.size());
    dk_exact.resize(k.size()), dv_exact.resize(k.size());
    for (int sequence = 0; sequence < s.sequences; ++sequence)
      for (int head = 0; head < s.heads; ++head)
        for (int query = 0; query < s.length; ++query) solve_row(sequence, head, query);
  }
  void solve_row(int sequence, int head, int query) {
    const int kv = head / (s.heads / s.kv_heads);
    const int begin = documents.empty() ? 0 : documents[size_t(sequence * s.length + query)].begin;
    const size_t row = at(sequence, query, head, s.heads);
    std::vector<double> weights, pulls;
    double sum = 0, delta = 0;
    const double scale = 1 / std::sqrt(double(s.head));
    for (int key = begin; key <= query; ++key) {
      const size_t other = at(sequence, key, kv, s.kv_heads);
      double score = 0, pull = 0;
      for (size_t i = 0; i < size_t(s.head); ++i) {
        score += double(q[row + i]) * double(k[other + i]);
        pull += double(dout[row + i]) * double(v[other + i]);
      }
      weights.push_back(std::exp(score * scale)), pulls.push_back(pull);
      sum += weights.back();
    }
    lse_exact[row / size_t(s.head)] = std::log(sum);
    for (size_t n = 0; n < weights.size(); ++n) {
      const size_t other = at(sequence, begin + int(n), kv, s.kv_heads);
      weights[n] /= sum;
      delta += weights[n] * pulls[n];
      for (size_t i = 0; i < size_t(s.head); ++i) out_exact[row + i] += weights[n] * double(v[other + i]);
    }
    for (size_t n = 0; n < weights.size(); ++n) {
      const size_t other = at(sequence, begin + int(n), kv, s.kv_heads);
      const double grad = weights[n] * (pulls[n] - delta) * scale;
      for (size_t i = 0; i < size_t(s.head); ++i) {
        dq_exact[row + i] += grad * double(k[other + i]);
        dk_exact[other + i] += grad * double(q[row + i]);
        dv_exact[other + i] += weights[n] * double(dout[row + i]);
      }
    }
  }
};

// Products of weights rounded to bf16 once, and one rounding of the result: 2^-8 of a value each, and a fixed share of the
// norm for sums that cancel.
void expect_near(const char* name, const Values& found, const std::vector<double>& exact) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double off = double(found[i]) - exact[i];
    error += off * off, norm += exact[i] * exact[i];
    ASSERT_TRUE(std::abs(off) <= 0.02 * std::abs(exact[i]) + 0.03)
        << name << " at " << i << ": " << double(found[i]) << " for " << exact[i];
  }
  EXPECT_LE(std::sqrt(error), 0.006 * std::sqrt(norm) + 1e-6) << name;
}

// Of Params::bias.
Values bias_of(const std::vector<float2>& stats, float scale) {
  Values bias;
  for (size_t tile = 0; tile < stats.size(); tile += 64) {
    for (const bool scores : {true, false}) {
      for (size_t i = 0; i < size_t(kBiasTerms); ++i) {
        for (size_t place = 0; place < 64; ++place) {
          const float2 stat = stats[tile + ((place / 8 ^ i) * 8 + place % 8)];
          float left = !scores ? -stat.y : std::isinf(stat.x) ? -1e30f : -stat.x / kLog2E / scale;
          for (size_t before = 0; before < i; ++before) left -= float(bf16(left));
          bias.push_back(bf16(left));
        }
      }
    }
  }
  return bias;
}

template <int kHead>
void check(const Shape& s, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.sequences << "x" << s.length << " heads " << s.heads << "/"
                                  << s.kv_heads << " h " << s.head << " documents " << s.mean);
  std::mt19937 random(seed);
  Problem x(s, random);
  emulated_seed = seed;
  int32_t next = 0;
  Params p{};
  p.length = s.length, p.heads = s.heads, p.kv_heads = s.kv_heads;
  p.items = {s.length, s.sequences * s.heads, 1 + int(random() % unsigned(s.sequences * s.heads + 1))};
  p.scale = float(1 / std::sqrt(double(s.head)));
  p.documents = x.documents.empty() ? nullptr : x.documents.data();
  p.padded = (s.length + kOwn - 1) / kOwn * kOwn;
  p.next = &next;
  p.lse = x.lse.data();
  p.own[0] = map_of(s, x.q, s.heads, 128);
  p.other[0] = map_of(s, x.k, s.kv_heads, 128), p.other[1] = map_of(s, x.v, s.kv_heads, 128);
  p.out[0] = reinterpret_cast<__nv_bfloat16*>(x.out.data());
  launch_forward<kHead>(p, nullptr);
  expect_near("out", x.out, x.out_exact);
  for (size_t i = 0; i < x.lse.size(); ++i) ASSERT_NEAR(x.lse[i], x.lse_exact[i], 1e-4) << i;

  std::vector<float2> stats(size_t(s.sequences * s.heads * p.padded), float2{INFINITY, 0});
  for (int sequence = 0; sequence < s.sequences; ++sequence) {
    for (int token = 0; token < s.length; ++token) {
      for (int head = 0; head < s.heads; ++head) {
        const size_t row = x.at(sequence, token, head, s.heads);
        float delta = 0;
        for (size_t i = 0; i < size_t(kHead); ++i) delta += float(x.dout[row + i]) * float(x.out[row + i]);
        stats[size_t((sequence * s.heads + head) * p.padded + token)] = {x.lse[row / size_t(kHead)] * kLog2E,
                                                                         delta};
      }
    }
  }
  p.stats = stats.data();
  next = 0;
  p.own[0] = map_of(s, x.q, s.heads, 128), p.own[1] = map_of(s, x.dout, s.heads, 128);
  p.other[0] = map_of(s, x.k, s.kv_heads, 64), p.other[1] = map_of(s, x.v, s.kv_heads, 64);
  p.out[0] = reinterpret_cast<__nv_bfloat16*>(x.dq.data());
  launch_dq<kHead>(p, nullptr);
  expect_near("dq", x.dq, x.dq_exact);

  next = 0;
  p.items.pairs = s.sequences * s.kv_heads;
  p.own[0] = map_of(s, x.k, s.kv_heads, 128), p.own[1] = map_of(s, x.v, s.kv_heads, 128);
  p.other[0] = map_of(s, x.q, s.heads, 64), p.other[1] = map_of(s, x.dout, s.heads, 64);
  p.out[0] = reinterpret_cast<__nv_bfloat16*>(x.dk.data()),
  p.out[1] = reinterpret_cast<__nv_bfloat16*>(x.dv.data());
  launch_dkv<kHead>(p, nullptr);
  expect_near("dk", x.dk, x.dk_exact);
  expect_near("dv", x.dv, x.dv_exact);

  if constexpr (kHead == 64) {
    for (Values* v : {&x.dq, &x.dk, &x.dv}) std::fill(v->begin(), v->end(), bf16(7.f));
    std::vector<float> sums(size_t(s.heads / s.kv_heads * p.padded * kHead), NAN);
    const Values bias = bias_of(stats, p.scale);
    p.bias = reinterpret_cast<const __nv_bfloat16*>(bias.data());
    next = 0;
    p.sums = sums.data();
    p.out[2] = reinterpret_cast<__nv_bfloat16*>(x.dq.data());
    launch_backward(p, 1, nullptr);
    expect_near("dq of one kernel", x.dq, x.dq_exact);
    expect_near("dk of one kernel", x.dk, x.dk_exact);
    expect_near("dv of one kernel", x.dv, x.dv_exact);
  }
}

TEST(FlashEmulated, EqualsSumsInDoubleForHeadsOf64) {
  unsigned seed = 1;
  for (const Shape& s : {Shape{1, 1, 1, 1, 64, 0},
                         {1, 64, 1, 1, 64, 0},
                         {2, 130, 2, 1, 64, 0},
                         {1, 300, 1, 1, 64, 0},
                         {2, 200, 2, 2, 64, 30},
                         {1, 449, 1, 1, 64, 90},
                         {1, 260, 4, 1, 64, 200}})
    check<64>(s, seed++);
}
TEST(FlashEmulated, EqualsSumsInDoubleForHeadsOf128) {
  unsigned seed = 11;
  for (const Shape& s : {Shape{1, 128, 1, 1, 128, 0}, {1, 193, 2, 1, 128, 0}, {1, 390, 1, 1, 128, 70}})
    check<128>(s, seed++);
}
// The same items in other orders of events.
TEST(FlashEmulated, DoesNotDependOnWhoIsFirst) {
  for (unsigned seed = 21; seed < 25; ++seed) check<64>({3, 140, 1, 1, 64, 50}, seed);
}

}  // namespace
}  // namespace cadre::device::cuda::hopper
