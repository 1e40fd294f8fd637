// What samples earn: shaped rewards, groups that teach nothing, and what is logged about them.
#include <spdlog/sinks/ostream_sink.h>

#include <cmath>
#include <map>
#include <sstream>

#include "parallel/base/log.h"
#include "tests/trainer/reinforcement_fixture.h"

namespace cadre::trainer {
namespace {

using testing::rl::metric;
using testing::rl::problems;
using testing::rl::rl_run;
using testing::rl::run;

// DAPO, eq. 13.
TEST(Grading, OverlongResponsesLoseALinearPenalty) {
  RolloutConfig plain;
  plain.max_new_tokens = 20;
  RolloutConfig config = plain;
  config.overlong_buffer = 4;
  config.overlong_penalty = 0.5;
  const std::pair<int, double> cases[] = {{3, 1}, {16, 1}, {17, 0.875}, {18, 0.75}, {20, 0.5}};
  std::vector<Rollout> group;
  for (const auto& [length, reward] : cases) {
    Rollout r;
    r.prompt_length = 2;
    r.tokens.resize(size_t(2 + length));
    r.reward = 1;
    r.finish = length == 20 ? Finish::kLength : Finish::kStop;
    EXPECT_DOUBLE_EQ(shaped_reward(r, config), reward) << length;
    EXPECT_EQ(shaped_reward(r, plain), 1) << "off without a buffer";
    group.push_back(std::move(r));
  }
  EXPECT_FALSE(equal_rewards(group, config)) << "what is punished trains";
  EXPECT_TRUE(equal_rewards(group, plain));
  RolloutConfig masked = config;
  masked.overlong_mask = true;
  set_advantages(group, masked, optim::AdvantageKind::kMean);
  const double mean = (1 + 1 + 0.875 + 0.75 + 0.5) / 5;
  for (size_t i = 0; i < group.size(); ++i) {
    EXPECT_NEAR(group[i].advantage, cases[i].second - mean, 1e-12) << "masked ones count in the mean";
    EXPECT_EQ(group[i].masked, i == 4);
  }
}

// Three samples at update 7: one drawn with the present weights, one two updates ago, one in between.
TEST(Grading, ABatchSaysHowOldItsTokensAre) {
  const Dataset set = problems(rl_run({}));
  std::vector<Rollout> batch(3);
  const std::vector<uint32_t> versions[] = {{7, 7}, {5, 5, 5}, {5, 6, 7}};
  for (size_t i = 0; i < 3; ++i) {
    batch[i].version = versions[i];
    batch[i].logp.assign(versions[i].size(), -0.5f);
    batch[i].reward = double(i);
    batch[i].level = i == 0 ? 1 : 2;
    batch[i].finish = i == 2 ? Finish::kLength : Finish::kStop;
  }
  const nlohmann::json m = batch_metrics(batch, *set.train, 7);
  EXPECT_EQ(m["staleness"], nlohmann::json({{"0", 3 / 8.0}, {"1", 1 / 8.0}, {"2", 4 / 8.0}}));
  EXPECT_DOUBLE_EQ(m["staleness_mean"], 9 / 8.0);
  EXPECT_DOUBLE_EQ(m["partial_fraction"], 1 / 3.0);
  EXPECT_DOUBLE_EQ(m["truncated_fraction"], 1 / 3.0);
  EXPECT_DOUBLE_EQ(m["entropy"], 0.5);
  EXPECT_EQ(m["level_reward"], nlohmann::json({{"1", 0.0}, {"2", 1.5}}));
}

TEST(Grading, AStopTextEndsAResponseWhateverItsTokens) {
  RolloutConfig config;
  config.stop = {"end", "\n\n"};
  const std::shared_ptr<const data::Tokenizer> bytes = data::make_byte_tokenizer();
  const EngineConfig engine = engine_config({.tokenizer = bytes, .reward = nullptr}, config);
  const auto stops = [&](const std::string& text) {
    std::vector<int32_t> tokens;
    bytes->encode(text, tokens);
    return engine.stops(tokens);
  };
  EXPECT_TRUE(stops("the end"));
  EXPECT_TRUE(stops("a\n\n"));
  EXPECT_FALSE(stops("the en"));
  EXPECT_FALSE(stops("a\n \n"));
  EXPECT_FALSE(stops(""));
}

TEST(Grading, GroupsOfEqualRewardsAreReplaced) {
  for (const StepReport& report : run(1, {"rollout.rounds=8"}, 4)) {
    // 4 groups of 4; in each between one and three responses are right.
    EXPECT_GE(metric(report, "reward_mean"), 0.25);
    EXPECT_LE(metric(report, "reward_mean"), 0.75);
  }
}

TEST(Grading, OverlongResponsesArePunishedOrLeftOut) {
  // Nothing is right, so that only length makes a difference.
  const std::vector<std::string> nothing = {"reward.pattern=(?!)", "rollout.stop=[a, c, e, g, i, k, o, u]"};
  auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), nothing.begin(), nothing.end());
    return run(1, more, 1)[0];
  };
  EXPECT_EQ(with({}).grad_norm, 0);
  EXPECT_GT(with({"rollout.overlong_buffer=4"}).grad_norm, 1e-3);
  const StepReport masked = with({"rollout.overlong_mask=true"}), whole = with({});
  EXPECT_LT(masked.counts.trained_tokens, whole.counts.trained_tokens);
  EXPECT_EQ(metric(masked, "truncated_fraction"), metric(whole, "truncated_fraction"));
}

// The line says what happened and the counter how often; the run goes on with rewards of 0.
TEST(Grading, WhatARewardCannotJudgeIsSaidOnceARound) {
  std::ostringstream log;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  const auto reports = run(1, {"reward={name: program, command: [echo, well done], allow_network: true}"}, 2);
  spdlog::set_default_logger(before);
  for (const StepReport& report : reports) {
    EXPECT_EQ(metric(report, "reward_failures"), 16);
    EXPECT_EQ(metric(report, "reward_mean"), 0);
  }
  const std::string text = log.str(), what = "could not judge 32 of 32 responses";
  EXPECT_NE(text.find(what), std::string::npos) << text;
  EXPECT_EQ(text.find(what), text.rfind(what)) << text;
  EXPECT_NE(text.find("printed \"well done\", expected a number"), std::string::npos) << text;
}

// All that the authors' code logs, and what is needed to read it.
TEST(Grading, EveryLineHasTheMetricsOfTheSpecification) {
  const StepReport report = run(1, {"objective.tis_cap=1.5", "train.micro_batch=16"}, 2)[1];
  std::map<std::string, double> got;
  for (const auto& [key, value] : report.objective) got[key] = value;
  for (const char* name : {"sequences",
                           "length_mean",
                           "approx_kl",
                           "w_mean",
                           "w_max",
                           "w_min",
                           "w_std",
                           "log_w_mean",
                           "log_w_max",
                           "log_w_min",
                           "log_w_std",
                           "log_w_max_abs",
                           "phi_mean",
                           "phi_max",
                           "phi_min",
                           "phi_small_fraction",
                           "ess_fraction",
                           "sequences_positive",
                           "sequences_negative",
                           "w_positive_mean",
                           "w_negative_mean",
                           "phi_positive_mean",
                           "phi_negative_mean",
                           "negative_noise_count",
                           "tis_enabled",
                           "positive_c1",
                           "positive_c2",
                           "negative_c1",
                           "negative_c2"}) {
    ASSERT_TRUE(got.contains(name)) << name;
    EXPECT_TRUE(std::isfinite(got[name])) << name;
  }
  EXPECT_EQ(got["tis_enabled"], 1);
  EXPECT_EQ(got["negative_c1"], 3);
  for (const char* name : {"reward_mean", "truncated_fraction", "reward_failures", "entropy",
                           "staleness_mean", "staleness", "reward", "level_reward"})
    EXPECT_TRUE(report.source.contains(name)) << name;
  // Levels of a task are its domains.
  for (const char* level : {"1", "2"})
    EXPECT_EQ(report.source["level_reward"][level],
              report.source["reward"][std::string("arithmetic-") + level]);
  EXPECT_EQ(report.source["staleness"], nlohmann::json({{"1", 1.0}}));
}

TEST(Grading, HeldOutRewardIsThatOfTheLikeliestResponse) {
  const Dataset set = problems(rl_run({}));
  double expected = -1;
  for (const int ranks : {1, 2}) {
    comm::run_threads(ranks, [&](comm::World& world) {
      TrainState state(rl_run({}), set, world);
      const auto scores = state.rollouts->evaluate(*set.valid, state.progress);
      ASSERT_EQ(scores.size(), 2u);
      EXPECT_EQ(scores[0].prompts, 6);
      EXPECT_EQ(scores[0].domain, "arithmetic-1");
      if (world.rank() != 0) return;
      const double sum = scores[0].reward + scores[1].reward;
      if (expected >= 0) {
        EXPECT_EQ(sum, expected);
      }
      expected = sum;
    });
  }
}

}  // namespace
}  // namespace cadre::trainer
