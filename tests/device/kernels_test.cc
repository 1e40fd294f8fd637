// Every dense CPU kernel against plain loops, and every backward kernel against central differences in
// double.
#include "parallel/device/kernels.h"

#include <gtest/gtest.h>

#include <limits>

#include "parallel/device/cpu/simd.h"
#include "tests/device/tensor.h"

namespace cadre::device {
namespace {

// Tolerance of a sum of n products of normal numbers, over some thousands of such sums.
template <class T>
double tolerance(int64_t n) {
  return 40 * std::numeric_limits<T>::epsilon() * std::sqrt(double(n) + 1);
}

template <class T>
void compare_gemm(int64_t m, int64_t n, int64_t k, GemmFlags flags, int threads) {
  const Tensor<T, 2> a(flags.transpose_a ? std::array{k, m} : std::array{m, k}, 1);
  const Tensor<T, 2> b(flags.transpose_b ? std::array{n, k} : std::array{k, n}, 2);
  Tensor<T, 2> c({m, n}, 3), expected = c;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += double(flags.transpose_a ? a[l * m + i] : a[i * k + l]) *
               double(flags.transpose_b ? b[j * k + l] : b[l * n + j]);
      }
      expected[i * n + j] = T(flags.alpha * sum + flags.beta * c[i * n + j]);
    }
  }
  CpuQueue queue(threads);
  cpu_kernels<T>().gemm(queue, a, b, c, flags);
  EXPECT_LT(max_difference(c, expected), tolerance<T>(k))
      << m << " x " << n << " x " << k << " transposed " << flags.transpose_a << flags.transpose_b;
}

TEST(Gemm, EqualsThreeLoopsForEveryShapeAndTransposition) {
  const std::array<int64_t, 3> shapes[] = {{1, 1, 1},    {1, 300, 65},  {33, 7, 129},
                                           {200, 3, 64}, {70, 130, 33}, {130, 70, 40},
                                           {0, 5, 3},    {5, 0, 3},     {4, 6, 0}};
  for (const auto& [m, n, k] : shapes) {
    for (int transposed = 0; transposed < 4; ++transposed) {
      for (const auto& [alpha, beta] : {std::pair{1.0, 0.0}, {1.0, 1.0}, {0.5, -2.0}}) {
        const GemmFlags flags{bool(transposed & 1), bool(transposed & 2), alpha, beta};
        compare_gemm<float>(m, n, k, flags, 3);
        compare_gemm<double>(m, n, k, flags, 2);
      }
    }
  }
}

TEST(Gemm, AddsAnotherMatrixAndMultipliesManyAsOneByOne) {
  CpuQueue queue(2);
  const auto& kernels = cpu_kernels<float>();
  const Tensor<float, 2> a({9, 8}, 1), plus({9, 7}, 2);
  const Tensor<float, 3> b({3, 7, 8}, 3);
  Tensor<float, 3> c({3, 9, 7}), one_by_one({3, 9, 7}), onto({3, 9, 7});
  kernels.gemm_batch(queue, View<const float, 3>(a.data.data(), {1, 9, 8}), b, c, {.transpose_b = true});
  for (int64_t i = 0; i < 3; ++i) {
    const View<const float, 3> all = b;
    const View<float, 3> to = one_by_one, with = onto;
    kernels.gemm(queue, a, all[i], to[i], {.transpose_b = true});
    kernels.gemm_onto(queue, a, all[i], plus, with[i], {.transpose_b = true, .beta = 2});
  }
  EXPECT_EQ(c.data, one_by_one.data);
  for (int64_t i = 0; i < c.size(); ++i) EXPECT_NEAR(onto[i], c[i] + 2 * plus[i % plus.size()], 1e-5);
}

TEST(Gemm, BetaZeroIgnoresWhatWasThere) {
  CpuQueue queue(2);
  for (const int64_t m : {1, 40}) {
    const Tensor<float, 2> a({m, 8}, 1), b({50, 8}, 2);
    Tensor<float, 2> c({m, 50});
    std::fill(c.data.begin(), c.data.end(), std::numeric_limits<float>::quiet_NaN());
    cpu_kernels<float>().gemm(queue, a, b, c, {.transpose_b = true});
    for (float x : c.data) ASSERT_TRUE(std::isfinite(x)) << "rows " << m;
  }
}

TEST(FastExp, IsWithinTwoRoundingsOfTheLibrary) {
  double worst = 0;
  for (double x = -86.9; x < 88; x += 0.00137) {
    const double exact = std::exp(double(float(x)));
    worst = std::max(worst, std::abs(exp_of(float(x)) - exact) / exact);
  }
  EXPECT_LT(worst, 2.0 * std::numeric_limits<float>::epsilon());
  EXPECT_EQ(exp_of(0.0f), 1.0f);
  EXPECT_EQ(exp_of(-87.5f), 0.0f);
  EXPECT_EQ(exp_of(1e30f), std::numeric_limits<float>::infinity());
  EXPECT_EQ(exp_of(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
}

TEST(RmsNorm, EqualsItsFormula) {
  CpuQueue queue(2);
  const int64_t rows = 9, width = 37;
  const Tensor<float, 2> x({rows, width}, 1);
  const Tensor<float, 1> w({width}, 2);
  Tensor<float, 2> y({rows, width});
  Tensor<float, 1> rstd({rows});
  cpu_kernels<float>().rms_norm(queue, x, w, 1e-3, y, rstd);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double(x[r * width + i]) * x[r * width + i];
    const double scale = 1 / std::sqrt(squares / width + 1e-3);
    EXPECT_NEAR(rstd[r], scale, 1e-6);
    for (int64_t i = 0; i < width; ++i) EXPECT_NEAR(y[r * width + i], x[r * width + i] * scale * w[i], 1e-5);
  }
}

TEST(RmsNorm, GradientEqualsCentralDifferences) {
  CpuQueue queue(2);
  const auto& kernels = cpu_kernels<double>();
  Tensor<double, 2> x({3, 10}, 1), y({3, 10});
  Tensor<double, 1> w({10}, 2), rstd({3});
  const Tensor<double, 2> dy({3, 10}, 3);
  const auto loss = [&] {
    kernels.rms_norm(queue, x, w, 1e-3, y, rstd);
    return dot(y, dy);
  };
  loss();
  Tensor<double, 2> dx({3, 10}, 4), dx_before = dx;
  Tensor<double, 1> dw({10}, 5), dw_before = dw;
  kernels.rms_norm_backward(queue, dy, x, w, rstd, true, dx, dw);
  for (int64_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(dx[i] - dx_before[i], central_difference(x[i], loss), 1e-8);
  for (int64_t i = 0; i < w.size(); ++i)
    EXPECT_NEAR(dw[i] - dw_before[i], central_difference(w[i], loss), 1e-8);
  Tensor<double, 2> alone = dx_before;
  kernels.rms_norm_backward(queue, dy, x, w, rstd, false, alone, dw);
  for (int64_t i = 0; i < x.size(); ++i) EXPECT_NEAR(alone[i], dx[i] - dx_before[i], 1e-12) << "not added";
}

TEST(RmsNorm, WeightGradientSumsOverRowsOfEveryThread) {
  const int64_t rows = 1001, width = 64;
  const Tensor<double, 2> x({rows, width}, 1), dy({rows, width}, 3);
  const Tensor<double, 1> w({width}, 2);
  Tensor<double, 2> y({rows, width});
  Tensor<double, 1> rstd({rows}), expected({width});
  for (const int threads : {1, 3}) {
    CpuQueue queue(threads);
    cpu_kernels<double>().rms_norm(queue, x, w, 0, y, rstd);
    Tensor<double, 2> dx({rows, width});
    Tensor<double, 1> dw({width});
    cpu_kernels<double>().rms_norm_backward(queue, dy, x, w, rstd, true, dx, dw);
    for (int64_t i = 0; i < width; ++i) {
      expected[i] = 0;
      for (int64_t r = 0; r < rows; ++r) expected[i] += dy[r * width + i] * x[r * width + i] * rstd[r];
    }
    EXPECT_LT(max_difference(dw, expected), 1e-11) << threads << " threads";
  }
}

TEST(Rope, RotatesPairsByTheirAngleAndTheInverseUndoesIt) {
  CpuQueue queue(2);
  const int64_t tokens = 5, heads = 3, half = 4;
  Tensor<double, 2> table({20, 2 * half});
  for (int64_t p = 0; p < 20; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      table[(p * 2) * half + i] = std::cos(p * std::pow(100.0, -double(i) / half));
      table[(p * 2 + 1) * half + i] = std::sin(p * std::pow(100.0, -double(i) / half));
    }
  }
  Tensor<int32_t, 1> position({tokens});
  position.data = {0, 3, 19, 3, 1};
  Tensor<double, 3> x({2 * tokens, heads, 2 * half}, 1), before = x;  // two tensors with the same positions
  cpu_kernels<double>().rope(queue, x, position, table, false);
  for (int64_t t = 0; t < 2 * tokens; ++t) {
    for (int64_t row = t * heads; row < (t + 1) * heads; ++row) {
      for (int64_t i = 0; i < half; ++i) {
        const double a = before[row * 2 * half + i], b = before[(row * 2 + 1) * half + i];
        const double angle = std::atan2(b, a) + position[t % tokens] * std::pow(100.0, -double(i) / half);
        EXPECT_NEAR(x[row * 2 * half + i], std::hypot(a, b) * std::cos(angle), 1e-12);
        EXPECT_NEAR(x[(row * 2 + 1) * half + i], std::hypot(a, b) * std::sin(angle), 1e-12);
      }
    }
  }
  cpu_kernels<double>().rope(queue, x, position, table, true);
  EXPECT_LT(max_difference(x, before), 1e-14);
}

TEST(Swiglu, EqualsItsFormulaOverTheWholeRangeOfFloat) {
  CpuQueue queue(2);
  Tensor<float, 2> gate({40, 1000}, 1, 20), up({40, 1000}, 2), y({40, 1000});
  gate[0] = 1e30f;
  gate[1] = -1e30f;
  cpu_kernels<float>().swiglu(queue, gate, up, y);
  for (int64_t i = 0; i < y.size(); ++i) {
    const double exact = double(gate[i]) / (1 + std::exp(-double(gate[i]))) * up[i];
    ASSERT_NEAR(y[i], exact, 1e-6 * std::abs(exact) + 1e-9) << gate[i];
  }
}

TEST(Swiglu, GradientEqualsCentralDifferencesInPlaceToo) {
  CpuQueue queue(2);
  const auto& kernels = cpu_kernels<double>();
  Tensor<double, 2> gate({5, 7}, 1, 3), up({5, 7}, 2), y({5, 7});
  const Tensor<double, 2> dy({5, 7}, 3);
  const auto loss = [&] {
    kernels.swiglu(queue, gate, up, y);
    return dot(y, dy);
  };
  Tensor<double, 2> dgate({5, 7}), dup({5, 7}), alias_gate = gate, alias_up = up;
  kernels.swiglu_backward(queue, dy, gate, up, dgate, dup, {});
  for (int64_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(dgate[i], central_difference(gate[i], loss), 1e-8);
    EXPECT_NEAR(dup[i], central_difference(up[i], loss), 1e-8);
  }
  Tensor<double, 2> again = dy;
  kernels.swiglu_backward(queue, again, alias_gate, alias_up, alias_gate, alias_up, again);
  kernels.swiglu(queue, gate, up, y);
  EXPECT_EQ(again.data, y.data);
  EXPECT_EQ(alias_gate.data, dgate.data);
  EXPECT_EQ(alias_up.data, dup.data);
}

TEST(Embed, GathersRowsAndAddsTheirGradientsInTokenOrder) {
  const int64_t vocab = 6, width = 21, tokens = 400;
  const Tensor<float, 2> table({vocab, width}, 1), dy({tokens, width}, 2);
  Tensor<int32_t, 1> token({tokens});
  for (int64_t t = 0; t < tokens; ++t) token[t] = int32_t(t * t % (vocab - 1));  // the last row is never used
  Tensor<float, 2> expected({vocab, width}, 3), start = expected;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < width; ++i) expected[token[t] * width + i] += dy[t * width + i];
  }
  for (const int threads : {1, 2, 5}) {
    CpuQueue queue(threads);
    Tensor<float, 2> y({tokens, width}), dtable = start;
    cpu_kernels<float>().embed(queue, table, token, y);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < width; ++i) ASSERT_EQ(y[t * width + i], table[token[t] * width + i]);
    }
    cpu_kernels<float>().embed_backward(queue, dy, token, dtable);
    EXPECT_EQ(dtable.data, expected.data) << threads << " threads";
  }
}

TEST(LogProb, EqualsTheLogSoftmaxForLargeLogitsToo) {
  CpuQueue queue(2);
  const int64_t rows = 5, vocab = 3001;
  for (const double scale : {1.0, 1000.0}) {
    const Tensor<float, 2> logits({rows, vocab}, 1, scale);
    Tensor<int32_t, 1> target({rows});
    target.data = {0, 3000, 17, 1500, 2};
    Tensor<float, 1> logp({rows}), lse({rows});
    cpu_kernels<float>().log_prob(queue, logits, target, logp, lse);
    for (int64_t r = 0; r < rows; ++r) {
      double largest = -1e300, sum = 0;
      for (int64_t i = 0; i < vocab; ++i) largest = std::max(largest, double(logits[r * vocab + i]));
      for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[r * vocab + i] - largest);
      EXPECT_NEAR(lse[r], largest + std::log(sum), 1e-6 * (scale + 10));
      EXPECT_NEAR(logp[r], logits[r * vocab + target[r]] - largest - std::log(sum), 2e-6 * (scale + 10));
    }
  }
}

TEST(LogProb, NanInTheLogitsReachesTheLoss) {
  CpuQueue queue(1);
  Tensor<float, 2> logits({1, 100}, 1);
  Tensor<int32_t, 1> target({1});
  Tensor<float, 1> logp({1}), lse({1});
  logits[40] = std::numeric_limits<float>::quiet_NaN();
  cpu_kernels<float>().log_prob(queue, logits, target, logp, lse);
  EXPECT_TRUE(std::isnan(logp[0]));
}

TEST(LogProb, GradientEqualsCentralDifferences) {
  CpuQueue queue(2);
  const auto& kernels = cpu_kernels<double>();
  Tensor<double, 2> logits({4, 13}, 1);
  const Tensor<double, 1> dlogp({4}, 2);
  Tensor<int32_t, 1> target({4});
  target.data = {12, 0, 5, 5};
  Tensor<double, 1> logp({4}), lse({4});
  const auto loss = [&] {
    kernels.log_prob(queue, logits, target, logp, lse);
    return dot(logp, dlogp);
  };
  loss();
  Tensor<double, 2> grad = logits;
  kernels.log_prob_backward(queue, grad, target, lse, dlogp);
  for (int64_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(grad[i], central_difference(logits[i], loss), 1e-9);
  loss();
  Tensor<double, 2> both = logits;
  Tensor<double, 1> same_logp({4}), same_lse({4});
  kernels.log_prob_and_grad(queue, both, target, dlogp, same_logp, same_lse);
  EXPECT_EQ(both.data, grad.data);
  EXPECT_EQ(same_logp.data, logp.data);
  EXPECT_EQ(same_lse.data, lse.data);
}

TEST(Elementwise, AddCopyAndFillCoverEveryElement) {
  CpuQueue queue(3);
  const Tensor<float, 1> x({50001}, 1);
  Tensor<float, 1> y({50001}, 2), before = y;
  cpu_kernels<float>().add(queue, x, y);
  for (int64_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], before[i] + x[i]);
  cpu_kernels<float>().copy(queue, x, y);
  EXPECT_EQ(y.data, x.data);
  cpu_kernels<float>().fill(queue, y, 2.5);
  EXPECT_EQ(y.data, std::vector<float>(50001, 2.5f));
}

}  // namespace
}  // namespace cadre::device
