// Mixers that learn from losses and trials or read a file, and the searches that mixers use, against closed forms,
// brute force and small worlds whose right answer is known.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "data/mixers/simplex.h"
#include "parallel/base/rng.h"
#include "tests/data/feed_fixtures.h"
#include "tests/data/mixer_fixtures.h"

namespace cadre::data {
namespace {

using testing::context_of;
const auto make = testing::make_from;

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

// Two domains, one with a constant excess x, the other with none.
TEST(Doremi, FollowsTheUpdateInClosedForm) {
  const double x = 0.3, eta = 0.5;
  const MixerContext c = context_of(2);
  const auto observe = [&](Mixer& mixer, double first, double tokens) {
    mixer.observe({}, {.loss_sum = {first * tokens, 0}, .tokens = {tokens, 50}});
  };
  // Without smoothing the odds grow by exp(eta x) a step, from one; a batch without the domain keeps its last excess.
  const auto plain = make("{name: doremi, reference: r, eta: 0.5, smoothing: 1.0e-13}", c);
  for (int t = 1; t <= 20; ++t) {
    observe(*plain, x, t % 4 == 3 ? 0 : 100);
    EXPECT_NEAR(plain->weights({})[0], 1 / (1 + std::exp(-eta * x * t)), 1e-10) << t;
  }
  // Before its first batch it has none.
  const auto late = make("{name: doremi, reference: r}", c);
  observe(*late, x, 0);
  EXPECT_NEAR(late->weights({})[0], 0.5, 1e-15);
  // With smoothing s: a = (1 - s) a r / (1 + a (r - 1)) + s / 2 with r = exp(eta x), a quadratic in a.
  const double s = 0.1, r = std::exp(eta * x);
  const auto smooth = make("{name: doremi, reference: r, eta: 0.5, smoothing: 0.1}", c);
  for (int t = 0; t < 400; ++t) observe(*smooth, x, 100);
  const double b = 1 - (1 - s) * r - s / 2 * (r - 1);
  EXPECT_NEAR(smooth->weights({})[0], (-b + std::sqrt(b * b + 2 * s * (r - 1))) / (2 * (r - 1)), 1e-12);
  EXPECT_THROW(make("{name: doremi}", c), Error);
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
