// Mixes, laws and proposals against brute force, and the swarm's runs.
#include "trainer/study/swarm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "parallel/base/files.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/study/statistics.h"

namespace cadre::study {
namespace {

TEST(MixDraw, GivesDifferentMixesWithinTheRatioRoundThePrior) {
  const Mix prior = {0.5, 0.3, 0.15, 0.05};
  const MixDraw draw = {
      .count = 200, .seed = 3, .low = 0.5, .high = 20, .power = 1, .max_ratio = 4, .least = 2e-4};
  const auto mixes = draw_mixes(draw, prior);
  ASSERT_EQ(mixes.size(), 200u);
  Mix mean(4, 0.0);
  for (const Mix& w : mixes) {
    EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-12);
    for (size_t k = 0; k < 4; ++k) {
      EXPECT_TRUE(w[k] == 0 || w[k] >= draw.least);
      EXPECT_LE(w[k], 4 * prior[k] * 1.01);
      mean[k] += w[k] / 200;
    }
  }
  EXPECT_NEAR(mean[0], 0.5, 0.06);
  EXPECT_NEAR(mean[2], 0.15, 0.04);
  EXPECT_EQ(draw_mixes(draw, prior), mixes);
  // Small s first: corners, then near the prior.
  const auto spread = [&](size_t from) {
    double sum = 0;
    for (size_t i = from; i < from + 40; ++i) sum += *std::max_element(mixes[i].begin(), mixes[i].end());
    return sum / 40;
  };
  EXPECT_GT(spread(0), spread(160));
}

const std::vector<LogLinearLaw> kLaws = {
    {1.5, {-2, 0.5, 0.2}}, {0.8, {0.6, -1.5, 0.4}}, {2.0, {0.3, 0.1, -0.7}}};

TEST(LogLinearLaw, IsFoundFromItsOwnValues) {
  const Mix prior = {0.4, 0.35, 0.25};
  const auto mixes = draw_mixes(
      {.count = 40, .seed = 1, .low = 1, .high = 10, .power = 1, .max_ratio = 15, .least = 0}, prior);
  for (const LogLinearLaw& law : kLaws) {
    std::vector<double> losses;
    for (const Mix& w : mixes) losses.push_back(law(w));
    const LogLinearLaw found = fit_law(mixes, losses);
    for (const Mix& w : {prior, Mix{1, 0, 0}, Mix{0.1, 0.8, 0.1}}) EXPECT_NEAR(found(w), law(w), 2e-3);
    EXPECT_GT(spearman(cross_validate(mixes, losses, 5), losses), 0.99);
  }
}

// The smallest value of f on a grid over the simplex of three domains, within the caps.
template <class F>
std::pair<double, Mix> brute_force(const std::vector<double>& cap, const F& f) {
  constexpr int kSteps = 400;
  std::pair<double, Mix> best = {INFINITY, {}};
  for (int i = 0; i <= kSteps; ++i) {
    for (int j = 0; i + j <= kSteps; ++j) {
      const Mix w = {double(i) / kSteps, double(j) / kSteps, double(kSteps - i - j) / kSteps};
      if (w[0] > cap[0] + 1e-12 || w[1] > cap[1] + 1e-12 || w[2] > cap[2] + 1e-12) continue;
      if (const double value = f(w); value < best.first) best = {value, w};
    }
  }
  return best;
}

TEST(Proposal, IsTheMinimumThatBruteForceFinds) {
  const Mix prior = {0.5, 0.3, 0.2};
  for (const double kl : {0.0, 0.05, 1.0}) {
    for (const std::vector<double>& cap : {std::vector<double>{1, 1, 1}, {0.4, 1, 0.3}, {0.5, 0.25, 0.25}}) {
      const Mix w = propose_convex(kLaws, prior, cap, kl);
      const auto [value, at] =
          brute_force(cap, [&](const Mix& x) { return convex_objective(kLaws, prior, kl, x); });
      EXPECT_LE(convex_objective(kLaws, prior, kl, w), value + 1e-9) << "kl " << kl;
      for (size_t k = 0; k < 3; ++k) {
        EXPECT_NEAR(w[k], at[k], 0.02) << "kl " << kl;
        EXPECT_LE(w[k], cap[k] + 1e-9);
      }
    }
  }
  EXPECT_THROW(propose_convex(kLaws, prior, {0.3, 0.3, 0.3}, 0.1), Error);
}

TEST(Proposal, SearchComesNearTheBestMeanLoss) {
  const Mix prior = {0.4, 0.35, 0.25};
  const auto mean_loss = [](const Mix& w) {
    double sum = 0;
    for (const LogLinearLaw& law : kLaws) sum += law(w) / 3;
    return sum;
  };
  const Mix w = propose_by_search(kLaws, prior, {1, 1, 1}, 20000, 64, 1);
  const double best = brute_force({1, 1, 1}, mean_loss).first;
  EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-9);
  EXPECT_LT(mean_loss(w) - best, 0.02 * (mean_loss(prior) - best));
}

TEST(Swarm, RunsItsMixesAndWritesAProposalThatARunCanUse) {
  const trainer::testing::TempFolder folder;
  std::ofstream(folder.path() / "run.yaml") << trainer::testing::kTinyRun;
  const std::string out = (folder.path() / "out").string();
  const std::string file = fmt::format(
      "swarm: {{base: run.yaml, out: {}, set: {{train.steps: 4}}, mixes: 8, scale: [1, 10]}}\n", out);
  static const trainer::Dataset dataset = trainer::testing::tiny_dataset();
  comm::run_threads(2, [&](comm::World& world) {
    base::Section root = base::parse_run_text(file, (folder.path() / "swarm.yaml").string(), {});
    const SwarmConfig config = read_swarm(root.section("swarm"));
    EXPECT_EQ(run_swarm(config, world,
                        {.train = {.measure_peak = false}, .retry_failed = false, .dataset = &dataset}),
              ExitCode::kOk);
  });
  const auto fit = nlohmann::json::parse(base::read_file(out + "/swarm.json", ExitCode::kData));
  EXPECT_EQ(fit.at("laws").size(), 3u);
  EXPECT_TRUE(std::filesystem::exists(out + "/swarm.html"));
  comm::run_threads(1, [&](comm::World& world) {
    trainer::TrainState state(
        trainer::testing::tiny_run({fmt::format("mixer={{name: file, path: {}/proposal.json}}", out)}),
        dataset, world);
    const auto weights = state.mixer->weights({});
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(weights[k], fit.at("proposal")[k].get<double>(), 1e-9);
  });
}

}  // namespace
}  // namespace cadre::study
