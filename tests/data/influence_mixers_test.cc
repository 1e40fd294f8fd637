// Mixers that read influence, against closed forms, brute force and worlds whose right answer is known.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "data/influence_estimate.h"
#include "parallel/base/rng.h"
#include "tests/data/mixer_fixtures.h"

namespace cadre::data {
namespace {

using testing::context_of;
const auto make = testing::make_from;

// Sums whose estimate has exactly these values and errors: a thousand documents of one token a domain.
InfluenceSums sums_of(const std::vector<double>& value, const std::vector<double>& error) {
  InfluenceSums s;
  for (size_t k = 0; k < value.size(); ++k) {
    constexpr double n = 1000;
    const double spread = std::sqrt(n - 1) * error[k];  // scores value +- spread: se^2 = spread^2 / (n - 1)
    s.pieces.push_back(n);
    s.tokens.push_back(n);
    s.tokens2.push_back(n);
    s.score.push_back(n * value[k]);
    s.score2.push_back(n * value[k] * value[k] + n * spread * spread);
    s.score_tokens.push_back(n * value[k]);
  }
  return s;
}
DomainStats probe(const std::vector<double>& value, const std::vector<double>& error) {
  DomainStats stats{.loss_sum = std::vector<double>(value.size(), 1),
                    .tokens = std::vector<double>(value.size(), 0)};
  stats.influence = {sums_of(value, error)};
  return stats;
}

TEST(InfluenceEstimate, IsARatioWithItsError) {
  const InfluenceSums s = sums_of({3, -1}, {0.5, 0.25});
  const InfluenceEstimate e = estimate_influence(s);
  EXPECT_NEAR(e.value[0], 3, 1e-12);
  EXPECT_NEAR(e.error[0], 0.5, 1e-12);
  EXPECT_NEAR(e.error[1], 0.25, 1e-12);
  // Scores proportional to lengths have no error, however the lengths vary.
  InfluenceSums even{{2}, {10}, {68}, {20}, {272}, {136}};  // T = 2, 8; s = 4, 16
  EXPECT_NEAR(estimate_influence(even).error[0], 0, 1e-12);
  // Two of one length, scores 1 and 3: mean 2, sample variance 2, so the mean's error is 1. One alone has none.
  EXPECT_NEAR(estimate_influence({{2}, {2}, {2}, {4}, {10}, {4}}).error[0], 1, 1e-12);
  EXPECT_TRUE(std::isnan(estimate_influence({{1}, {2}, {4}, {4}, {16}, {8}}).error[0]));
  InfluenceSums none{{0}, {0}, {0}, {0}, {0}, {0}};
  EXPECT_TRUE(std::isnan(estimate_influence(none).value[0]));
}

TEST(Gim, SettlesWherePriorAndInfluenceBalance) {
  const MixerContext c = context_of(3);
  const auto mixer = make("{name: gim, range: 100}", c);
  const std::vector<double> value = {1.2, 1.0, 0.8}, error = {1e-6, 1e-6, 1e-6};
  for (int i = 0; i < 300; ++i) mixer->observe({}, probe(value, error));
  const auto w = mixer->weights({});
  std::vector<double> expected;  // prior exp(eta / lambda d), uniform prior, d = +-0.2
  for (const double d : {0.2, 0.0, -0.2}) expected.push_back(std::exp(0.2 / 0.1 * d));
  const double sum = expected[0] + expected[1] + expected[2];
  for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(w[k], expected[k] / sum, 1e-9);
}

TEST(Gim, IgnoresTheScaleOfInfluence) {
  const auto a = make("gim", context_of(3)), b = make("gim", context_of(3));
  a->observe({}, probe({1.5, 1.0, 0.2}, {0.01, 0.01, 0.01}));
  b->observe({}, probe({1.5e-7, 1.0e-7, 0.2e-7}, {1e-9, 1e-9, 1e-9}));
  for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(a->weights({})[k], b->weights({})[k], 1e-12);
}

TEST(Gim, MovesOnNoiseInAtMostOneProbeOfTwenty) {
  const size_t domains = 7;
  const base::Philox random(11);
  int moved = 0, moved_without_gate = 0;
  const int trials = 600;
  for (uint64_t t = 0; t < trials; ++t) {
    std::vector<double> value, error(domains, 0.1);
    for (uint64_t k = 0; k < domains; ++k) value.push_back(1 + 0.1 * random.normal(t, k));
    for (const bool gate : {true, false}) {
      const auto mixer = make(fmt::format("{{name: gim, gate: {}}}", gate), context_of(domains));
      const auto before = mixer->weights({});
      mixer->observe({}, probe(value, error));
      double change = 0;
      for (size_t k = 0; k < domains; ++k)
        change = std::max(change, std::abs(mixer->weights({})[k] - before[k]));
      (gate ? moved : moved_without_gate) += change > 1e-12;
    }
  }
  EXPECT_EQ(moved_without_gate, trials);
  EXPECT_LT(moved, trials * 0.07);  // 5%, and two standard deviations of 600 trials
}

// Documents of all lengths whose influence differs by chance, a few in each domain.
TEST(Gim, KnowsHowLittleFewDocumentsSay) {
  const size_t domains = 6;
  const base::Philox random(12);
  for (const uint64_t documents : {2, 4, 8}) {
    int moved = 0;
    const int trials = 600;
    for (uint64_t t = 0; t < trials; ++t) {
      InfluenceSums s;
      for (std::vector<double>* column : s.columns()) column->assign(domains, 0.0);
      for (uint64_t k = 0; k < domains; ++k) {
        for (uint64_t d = 0; d < documents; ++d) {
          const uint64_t at = (t * domains + k) * documents + d;
          const double tokens = 100 + 2900 * random.uniform(at), score = tokens * (1 + random.normal(at, 1));
          s.pieces[k] += 1, s.tokens[k] += tokens, s.tokens2[k] += tokens * tokens;
          s.score[k] += score, s.score2[k] += score * score, s.score_tokens[k] += score * tokens;
        }
      }
      DomainStats stats{.loss_sum = std::vector<double>(domains, 1),
                        .tokens = std::vector<double>(domains, 0)};
      stats.influence = {s};
      const auto mixer = make("gim", context_of(domains));
      const auto before = mixer->weights({});
      mixer->observe({}, stats);
      double change = 0;
      for (size_t k = 0; k < domains; ++k)
        change = std::max(change, std::abs(mixer->weights({})[k] - before[k]));
      moved += change > 1e-12;
    }
    EXPECT_LT(moved, trials * 0.07) << documents;
  }
}

TEST(Gim, KnowsWhatControlsMustGive) {
  // A twin, a domain that harms, one that helps most; long enough to settle.
  const auto mixer = make("gim", context_of(5));
  const auto start = mixer->weights({});
  double largest_move = 0;
  for (int i = 0; i < 300; ++i) {
    const auto before = mixer->weights({});
    mixer->observe({}, probe({1, 1, -2, 3, 1}, {0.01, 0.01, 0.01, 0.01, 0.01}));
    double distance = 0;
    for (size_t k = 0; k < 5; ++k) distance += std::abs(mixer->weights({})[k] - before[k]) / 2;
    largest_move = std::max(largest_move, distance);
  }
  const auto w = mixer->weights({});
  EXPECT_NEAR(w[0], w[1], 1e-12);
  EXPECT_NEAR(w[2], start[2] / 4, 1e-12) << "a quarter of the prior is the floor";
  EXPECT_GT(w[3], 2 * start[3]);
  EXPECT_LE(w[3], 4 * start[3] + 1e-12);
  EXPECT_LE(largest_move, 0.1 + 1e-12);
}

TEST(Gim, EpochsThatAreLeftBoundTheWeights) {
  MixerContext c{{"small", "large"}, {1000, 1000000}, 20000};
  const auto mixer = make("{name: gim, max_epochs: 4}", c);
  DomainStats stats = probe({5, 1}, {0.01, 0.01});
  stats.tokens = {3000, 1000};  // 1000 tokens of the small domain are left for 16000 to come
  mixer->observe({}, stats);
  for (int i = 0; i < 100; ++i) mixer->observe({}, probe({5, 1}, {0.01, 0.01}));
  EXPECT_NEAR(mixer->weights({})[0], 1000.0 / 16000, 1e-12);
}

TEST(Tikmix, IsFeasibleAndBetterThanAnyOtherFeasibleMix) {
  const MixerContext c{{"a", "b", "c"}, {1000, 3000, 2000}, 1000};
  const auto mixer = make("tikmix", c);
  const auto prior = mixer->weights({});
  const double s[2][3] = {{2, 1, -0.5}, {0.5, 0.2, 1}};
  DomainStats stats = probe({2, 1, -0.5}, {0, 0, 0});
  stats.influence.push_back(sums_of({0.5, 0.2, 1}, {0, 0, 0}));
  mixer->observe({}, stats);
  const auto w = mixer->weights({});
  const auto p = [&](int i, const std::vector<double>& x) {
    return s[i][0] * x[0] + s[i][1] * x[1] + s[i][2] * x[2];
  };
  const auto value = [&](const std::vector<double>& x) {
    const double a = p(0, x) / 2, b = p(1, x);
    double f = std::abs(a - b) / 2 - a - b;
    for (const double v : x) f += v > 0 ? v * std::log(v) : 0;
    return f;
  };
  for (int i = 0; i < 2; ++i) EXPECT_GE(p(i, w), p(i, prior) - 1e-6);
  for (int i = 0; i <= 200; ++i) {
    for (int j = 0; i + j <= 200; ++j) {
      const std::vector<double> x = {i / 200.0, j / 200.0, (200 - i - j) / 200.0};
      if (p(0, x) < p(0, prior) || p(1, x) < p(1, prior)) continue;
      EXPECT_GE(value(x), value(w) - 1e-5);
    }
  }
  // No domain helps: the mix stays, where a quotient by the largest influence would turn signs.
  mixer->observe({}, probe({-1, -2, -3}, {0, 0, 0}));
  EXPECT_EQ(mixer->weights({}), w);
}

TEST(Doge, OneUpdateFollowsTheFormula) {
  const auto mixer = make("{name: doge, mu: 0.01}", context_of(3));
  DomainStats stats = probe({4, 100, -3}, {0, 0, 0});
  stats.grad_norm = 2;
  mixer->observe({.lr = 1e-3}, stats);
  const double score[] = {1e-3 * 4 / 2 / 0.01, 5e-3 / 0.01, 0};  // the second clipped at 5 lr, the third at 0
  double sum = 0;
  for (const double x : score) sum += std::exp(x);
  for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(mixer->weights({})[k], std::exp(score[k]) / sum, 1e-12);
}

}  // namespace
}  // namespace cadre::data
