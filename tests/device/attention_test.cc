// The tiled attention kernel against a plain softmax over visible keys, its gradient against central
// differences, and what it must not touch: keys of later tokens and of other documents.
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "parallel/device/kernels.h"
#include "tests/device/tensor.h"

namespace cadre::device {
namespace {

// One problem with its buffers. Segments of about `document` tokens; 0 is no segments at all.
template <class T>
struct Attention {
  Attention(AttentionShape s, int64_t document, uint64_t seed = 1)
      : shape(s),
        tokens(s.num_sequences * s.seq_len),
        q({tokens, s.num_heads, s.head_dim}, seed),
        k({tokens, s.num_kv_heads, s.head_dim}, seed + 1),
        v({tokens, s.num_kv_heads, s.head_dim}, seed + 2),
        dout({tokens, s.num_heads, s.head_dim}, seed + 3),
        out({tokens, s.num_heads, s.head_dim}),
        dq(q.shape),
        dk(k.shape),
        dv(v.shape),
        lse({tokens, s.num_heads}),
        segment({document > 0 ? tokens : 0}) {
    for (int64_t t = 0; t < segment.size(); ++t) {
      const int64_t i = t % s.seq_len, tail = s.seq_len - s.seq_len / 9;  // the last ninth is padding
      segment[t] = i < tail ? int32_t((i + t / s.seq_len * 3) / document) : -1;
    }
  }
  void forward(Queue& queue) { cpu_kernels<T>().attention(queue, shape, q, k, v, segment, out, lse); }
  void backward(Queue& queue) {
    cpu_kernels<T>().attention_backward(queue, shape, dout, q, k, v, segment, out, lse, dq, dk, dv);
  }
  bool visible(int64_t i, int64_t j) const {
    return j <= i && (segment.size() == 0 || segment[i] == segment[j]);
  }

  AttentionShape shape;
  int64_t tokens;
  Tensor<T, 3> q, k, v, dout, out, dq, dk, dv;
  Tensor<T, 2> lse;
  Tensor<int32_t, 1> segment;
};

// Softmax over the visible keys of each query, in double.
template <class T>
void reference(const Attention<T>& a, Tensor<double, 3>& out, Tensor<double, 2>& lse) {
  const auto& s = a.shape;
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int64_t n = 0; n < s.num_heads; ++n) {
      const int64_t g = n / (s.num_heads / s.num_kv_heads), first = t / s.seq_len * s.seq_len;
      std::vector<double> weight(t + 1, 0);
      double sum = 0;
      for (int64_t j = first; j <= t; ++j) {
        if (!a.visible(t, j)) continue;
        double score = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          score += double(a.q[(t * s.num_heads + n) * s.head_dim + d]) *
                   a.k[(j * s.num_kv_heads + g) * s.head_dim + d];
        }
        sum += weight[j] = std::exp(score / std::sqrt(double(s.head_dim)));
      }
      lse[t * s.num_heads + n] = std::log(sum);
      for (int64_t d = 0; d < s.head_dim; ++d) {
        double value = 0;
        for (int64_t j = first; j <= t; ++j)
          value += weight[j] / sum * a.v[(j * s.num_kv_heads + g) * s.head_dim + d];
        out[(t * s.num_heads + n) * s.head_dim + d] = value;
      }
    }
  }
}

template <class T>
void compare_forward(AttentionShape shape, int64_t document, double tolerance) {
  CpuQueue queue(2);
  Attention<T> a(shape, document);
  a.forward(queue);
  Tensor<double, 3> out(a.out.shape);
  Tensor<double, 2> lse(a.lse.shape);
  reference(a, out, lse);
  EXPECT_LT(max_difference(a.out, out), tolerance) << "length " << shape.seq_len << " documents " << document;
  EXPECT_LT(max_difference(a.lse, lse), tolerance) << "length " << shape.seq_len << " documents " << document;
}

TEST(Attention, EqualsPlainSoftmaxForOddLengthsGroupsAndDocuments) {
  for (const int64_t length : {1, 7, 65, 130, 300}) {
    for (const int64_t document : {0, 5, 40, 129}) {
      for (const int64_t kv_heads : {1, 2, 4}) {
        const AttentionShape shape{2, length, 4, kv_heads, 6};
        compare_forward<float>(shape, document, 1e-5);
        compare_forward<double>(shape, document, 1e-12);
      }
    }
  }
}

TEST(Attention, GradientEqualsCentralDifferences) {
  CpuQueue queue(2);
  for (const int64_t length : {1, 7, 140}) {
    for (const int64_t document : {0, 6, 50}) {
      Attention<double> a({2, length, 4, 2, 4}, document);
      const auto loss = [&] {
        a.forward(queue);
        return dot(a.out, a.dout);
      };
      loss();
      a.backward(queue);
      const auto check = [&](Tensor<double, 3>& x, const Tensor<double, 3>& dx, const char* name) {
        const int64_t step =
            length > 10 ? 97 : 1;  // coprime to the sides, so that every kind of element is met
        for (int64_t i = 0; i < x.size(); i += step) {
          ASSERT_NEAR(dx[i], central_difference(x[i], loss), 1e-7)
              << name << "[" << i << "] length " << length << " documents " << document;
        }
      };
      check(a.q, a.dq, "dq");
      check(a.k, a.dk, "dk");
      check(a.v, a.dv, "dv");
    }
  }
}

TEST(Attention, FloatGradientsFollowDouble) {
  CpuQueue queue(2);
  Attention<double> a({2, 300, 4, 2, 16}, 70);
  Attention<float> b({2, 300, 4, 2, 16}, 70);
  a.forward(queue);
  a.backward(queue);
  b.forward(queue);
  b.backward(queue);
  EXPECT_LT(max_difference(a.dq, b.dq), 2e-5);
  EXPECT_LT(max_difference(a.dk, b.dk), 2e-5);
  EXPECT_LT(max_difference(a.dv, b.dv), 2e-5);
}

TEST(Attention, TilesThatNoQuerySeesAreNotRead) {
  // Tiles have 128 rows. Document 0 fills the first, document 1 the two others. NaN times a weight of 0 would
  // be NaN.
  CpuQueue queue(2);
  const AttentionShape shape{1, 384, 2, 1, 8};
  for (const bool later : {false, true}) {
    Attention<float> a(shape, 128);
    for (int64_t t = 0; t < 384; ++t) a.segment[t] = t < 128 ? 0 : 1;
    const int64_t poisoned = later ? 256 : 0;  // keys above the diagonal, or of another document
    std::fill_n(a.k.data.begin() + poisoned * 8, 128 * 8, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(a.v.data.begin() + poisoned * 8, 128 * 8, std::numeric_limits<float>::quiet_NaN());
    a.forward(queue);
    for (int64_t t = 128; t < 256; ++t) {
      for (int64_t i = 0; i < 16; ++i) ASSERT_TRUE(std::isfinite(a.out[t * 16 + i])) << "token " << t;
    }
    std::fill_n(a.dout.data.begin() + poisoned * 16, 128 * 16, 0.0f);
    a.backward(queue);
    for (int64_t t = 128; t < 256; ++t) {
      for (int64_t i = 0; i < 16; ++i) ASSERT_TRUE(std::isfinite(a.dq[t * 16 + i])) << "token " << t;
    }
  }
}

TEST(Attention, PastKeysGiveTheTailOfTheWholeSequence) {
  CpuQueue queue(2);
  const int64_t whole = 290, heads = 4, kv_heads = 2, h = 8;
  Attention<double> a({1, whole, heads, kv_heads, h}, 0);
  a.forward(queue);
  for (const int64_t fresh : {1, 3, 150, 290}) {
    const int64_t past = whole - fresh;
    Tensor<double, 3> out({fresh, heads, h});
    Tensor<double, 2> lse({fresh, heads});
    cpu_kernels<double>().attention(queue, {1, fresh, heads, kv_heads, h, past}, a.q.view().rows(past, fresh),
                                    a.k, a.v, {}, out, lse);
    for (int64_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], a.out[past * heads * h + i], 1e-12);
  }
}

TEST(Attention, BitsDoNotDependOnThreadsOrRepetition) {
  std::vector<float> out, dk;
  for (const int threads : {1, 2, 3, 3}) {
    CpuQueue queue(threads);
    Attention<float> a({3, 200, 4, 2, 16}, 90);
    a.forward(queue);
    a.backward(queue);
    if (out.empty()) {
      out = a.out.data;
      dk = a.dk.data;
    }
    EXPECT_EQ(a.out.data, out) << threads << " threads";
    EXPECT_EQ(a.dk.data, dk) << threads << " threads";
  }
}

}  // namespace
}  // namespace cadre::device
