// Mixers that learn, against closed forms, brute force and small worlds whose right answer is known.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "data/influence_estimate.h"
#include "data/mixer.h"
#include "data/mixers/simplex.h"
#include "parallel/base/rng.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

std::unique_ptr<Mixer> make(const std::string& yaml, const MixerContext& context) {
  return make_mixer(base::parse_run_text("mixer: " + yaml, "test.yaml", {}).section("mixer"), context);
}
MixerContext context_of(size_t domains, int64_t each = 1 << 20, int64_t total = 1000) {
  return {std::vector<std::string>(domains, "d"), std::vector<int64_t>(domains, each), total};
}

// Sums whose estimate has exactly these values and errors: two pieces of one token a domain.
InfluenceSums sums_of(const std::vector<double>& value, const std::vector<double>& error) {
  InfluenceSums s;
  for (size_t k = 0; k < value.size(); ++k) {
    const double spread = std::sqrt(2.0) * error[k];  // scores value +- spread: se^2 = 2 spread^2 / 4
    s.pieces.push_back(2);
    s.tokens.push_back(2);
    s.tokens2.push_back(2);
    s.score.push_back(2 * value[k]);
    s.score2.push_back(2 * value[k] * value[k] + 2 * spread * spread);
    s.score_tokens.push_back(2 * value[k]);
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
  InfluenceSums none{{0}, {0}, {0}, {0}, {0}, {0}};
  EXPECT_TRUE(std::isnan(estimate_influence(none).value[0]));
}

TEST(Simplex, ProjectionsLieWithinBoundsAndAreTheNearestPoint) {
  const base::Philox random(4);
  for (uint64_t trial = 0; trial < 50; ++trial) {
    Bounds b;
    std::vector<double> w;
    for (uint64_t k = 0; k < 5; ++k) {
      b.lo.push_back(0.1 * random.uniform(trial, 3 * k));
      b.hi.push_back(0.25 + random.uniform(trial, 3 * k + 1));
      w.push_back(0.01 + random.uniform(trial, 3 * k + 2));
    }
    const auto scaled = scale_into(w, b), near = project_onto(w, b);
    for (const auto& x : {scaled, near}) {
      EXPECT_NEAR(std::accumulate(x.begin(), x.end(), 0.0), 1, 1e-14);
      for (size_t k = 0; k < 5; ++k) EXPECT_TRUE(x[k] >= b.lo[k] && x[k] <= b.hi[k] + 1e-14);
    }
    // Moving a little of any share to any other within the bounds does not come nearer.
    for (size_t i = 0; i < 5; ++i) {
      for (size_t j = 0; j < 5; ++j) {
        const double h = 1e-4;
        if (near[i] - h < b.lo[i] || near[j] + h > b.hi[j]) continue;
        EXPECT_GE((near[j] - w[j]) - (near[i] - w[i]) + h, -1e-12);
      }
    }
  }
}

TEST(Simplex, SmoothMinimisationFindsTheEndOfACurvedValley) {
  const auto x = minimise_smooth(
      [](const std::vector<double>& p, std::vector<double>& g) {
        const double a = 1 - p[0], b = p[1] - p[0] * p[0];
        g = {-2 * a - 400 * p[0] * b, 200 * b};
        return a * a + 100 * b * b;
      },
      {-1.2, 1});
  EXPECT_NEAR(x[0], 1, 1e-6);
  EXPECT_NEAR(x[1], 1, 1e-6);
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

TEST(Utilimax, FindsTheBestPointWithinTheCaps) {
  const testing::TempFile file("utility.yaml",
                               "utility: {a: [0.9, 0.1], b: [0.2, 0.8], c: [0.4, 0.5]}\ntasks: [x, y]\n");
  const MixerContext c{{"a", "b", "c"}, {1000, 200, 1000}, 1000};
  const auto w =
      make(fmt::format("{{name: utilimax, utility: {}, max_epochs: 1.5}}", file.path()), c)->weights({});
  const double u[3][2] = {{0.9, 0.1}, {0.2, 0.8}, {0.4, 0.5}};
  const auto value = [&](double x, double y, double z) {
    const double r0 = x * u[0][0] + y * u[1][0] + z * u[2][0] - 1,
                 r1 = x * u[0][1] + y * u[1][1] + z * u[2][1] - 1;
    return std::sqrt(r0 * r0 + r1 * r1) + 3 * (x * x + y * y + z * z);
  };
  double least = 100;
  for (int i = 0; i <= 1000; ++i) {
    for (int j = 0; i + j <= 1000; ++j) {
      if (j <= 300) least = std::min(least, value(i / 1000.0, j / 1000.0, (1000 - i - j) / 1000.0));
    }
  }
  EXPECT_LE(value(w[0], w[1], w[2]), least + 1e-9);
  EXPECT_LE(w[1], 0.3 + 1e-12);
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

TEST(Odm, PaysTheDrawnDomainByItsShareAndKeepsExploring) {
  const auto mixer = make("odm", context_of(4));
  std::vector<double> mean(4, 0.0);
  for (int i = 1; i <= 4000; ++i) {
    mixer->observe({}, {.loss_sum = {2, 2, 2, 4}, .tokens = {1, 1, 1, 1}});
    const auto w = mixer->weights({});
    const double floor = std::min(0.25, std::sqrt(std::log(4.0) / (4.0 * i)));
    for (size_t k = 0; k < 4; ++k) {
      EXPECT_GE(w[k], floor - 1e-12);
      mean[k] += w[k] / 4000;
    }
  }
  EXPECT_GT(mean[3], 0.4);  // rewards of 0.4 against 0.2: a bandit ends up with the better arm
  for (size_t k = 0; k < 3; ++k) EXPECT_LT(mean[k], 0.25);
}

TEST(Ado, FollowsTheSpeedOfLearningOfKnownLaws) {
  const MixerContext c = context_of(2);
  const auto mixer = make("{name: ado, start: 200, refit: 400}", c);
  const double e[] = {1.5, 2.0}, b[] = {90, 4}, a[] = {0.35, 0.1};
  uint64_t tokens = 0;
  const auto law = [&](int k, double n) { return e[k] + b[k] * std::pow(n, -a[k]); };
  for (uint64_t step = 1; step <= 700; ++step) {
    tokens += 2000;
    mixer->observe(
        {.step = step, .tokens = tokens},
        {.loss_sum = {1000 * law(0, double(tokens)), 1000 * law(1, double(tokens))}, .tokens = {1000, 1000}});
  }
  const auto w = mixer->weights({});
  // The running mean of rho moves slowly, since n does; both laws at half the tokens bound the answer.
  const auto share = [&](double n) {
    const double x = a[0] * (law(0, n) - e[0]), y = a[1] * (law(1, n) - e[1]);
    return x / (x + y);
  };
  EXPECT_NEAR(w[0], share(0.6 * double(tokens)), 0.05);
  EXPECT_GT(w[0], 0.6);
}

// A world in which a step on mix m lowers loss i by sum_k B_ik m_k: the trials find B exactly.
TEST(Aioli, FindsALinearWorldThroughTrialsAndDelay) {
  const double world[3][3] = {{3, 1, 0}, {0, 2, 1}, {0, 2, 1}};
  for (const int delay : {0, 2}) {
    MixerContext c = context_of(3);
    c.delay = delay;
    const auto mixer = make("{name: aioli, every: 60, rounds: 3, steps: 2, eta: 0.5}", c);
    std::vector<double> loss = {5, 5, 5};
    std::vector<std::vector<double>> planned(size_t(delay), mixer->weights({}));
    for (uint64_t step = 0; step < 100; ++step) {
      planned.push_back(mixer->weights({.step = step}));
      const std::vector<double> m = planned[step];
      DomainStats stats{.loss_sum = {1, 1, 1}, .tokens = {1, 1, 1}};
      if (mixer->probe_due({.step = step})) stats.valid_loss = loss;
      for (size_t i = 0; i < 3; ++i) {
        for (size_t k = 0; k < 3; ++k) loss[i] -= 1e-3 * world[i][k] * m[k];
      }
      const auto twin = make("{name: aioli, every: 60, rounds: 3, steps: 2, eta: 0.5}", c);
      twin->load(nlohmann::json::parse(mixer->save().dump()));
      mixer->observe({.step = step + 1}, stats);
      twin->observe({.step = step + 1}, stats);
      ASSERT_EQ(twin->save(), mixer->save());
    }
    const double column[] = {3, 5, 2};  // of B; its sum is 10
    double sum = 0;
    for (const double x : column) sum += std::exp(0.5 * x / 10);
    for (size_t k = 0; k < 3; ++k)
      EXPECT_NEAR(mixer->weights({.step = 100})[k], std::exp(0.5 * column[k] / 10) / sum, 1e-9)
          << "delay " << delay;
  }
  EXPECT_THROW(make("{name: aioli, every: 20, rounds: 4, steps: 4}", context_of(3)), Error);
}

TEST(FromFile, TakesSharesOfEveryDomainAndRefusesTheRest) {
  const MixerContext c{{"web", "code"}, {100, 100}, 50};
  const auto weights = [&](const std::string& text) {
    const testing::TempFile file("weights.yaml", text);
    return make(fmt::format("{{name: file, path: {}}}", file.path()), c)->weights({});
  };
  EXPECT_EQ(weights("web: 3\ncode: 1\n"), (std::vector<double>{0.75, 0.25}));
  EXPECT_EQ(weights("{\"code\": 1, \"web\": 0}"), (std::vector<double>{0, 1}));
  const auto message = [&](const std::string& text) {
    try {
      weights(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_NE(message("web: 3\ncodes: 1\n").find("unknown domain 'codes', did you mean 'code'?"),
            std::string::npos);
  EXPECT_NE(message("web: 3\n").find("'code' is missing"), std::string::npos);
  EXPECT_NE(message("web: .nan\ncode: 1\n").find("finite"), std::string::npos);
  EXPECT_NE(message("web: -1\ncode: 1\n").find("0 or more"), std::string::npos);
  EXPECT_NE(message("web: 0\ncode: 0\n").find("all weights are 0"), std::string::npos);
  EXPECT_NE(message("web: [1\n").find("not YAML"), std::string::npos);
  EXPECT_THROW(make("file", c), Error);
}

}  // namespace
}  // namespace cadre::data
