// Training on sampled responses: the update does not depend on the layout, a killed run goes on as if it had not been, and
// the reward rises.
#include <cmath>
#include <numeric>
#include <sstream>

#include <spdlog/sinks/ostream_sink.h>

#include "parallel/base/log.h"
#include "tests/trainer/reinforcement_fixture.h"
#include "trainer/run/bench_rollout.h"

namespace cadre::trainer {
namespace {

using testing::expect_same_curve;
using testing::losses;
using testing::norms;
using testing::TempFolder;
using testing::rl::kRun;
using testing::rl::metric;
using testing::rl::problems;
using testing::rl::rewards;
using testing::rl::rl_run;
using testing::rl::run;

TEST(Reinforcement, UpdateIsTheSameOnEveryLayout) {
  const auto expected = run(1, {"train.micro_batch=16"}, 6);
  EXPECT_GT(norms(expected)[1], 1e-3) << "without a gradient equal curves say nothing";
  const std::pair<int, std::vector<std::string>> layouts[] = {
      {1, {"train.micro_batch=3"}},
      {1, {"data.pack=true", "data.seq_len=100", "train.micro_batch=2"}},
      {2, {}},
      {2, {"mesh.ep=2", "train.micro_batch=5"}},
      {4, {"mesh.ep=2", "train.micro_batch=1", "data.pack=true", "data.seq_len=130"}},
      {4, {"rollout.sequences=4", "rollout.page_size=16", "mesh.zero=0"}},
  };
  for (const auto& [ranks, overrides] : layouts) {
    const auto got = run(ranks, overrides, 6);
    const std::string what = fmt::format("{} ranks, {}", ranks, fmt::join(overrides, " "));
    EXPECT_EQ(rewards(got), rewards(expected)) << what;
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i].loss, expected[i].loss, 2e-5) << what << ", step " << i;
    expect_same_curve(norms(got), norms(expected), "norm, " + what, 1e-3);
  }
}

TEST(Reinforcement, FirstUpdateAfterSamplingHasWeightOne) {
  for (const char* behaviour : {"old", "rollout"}) {
    const auto reports = run(1, {std::string("objective.behaviour=") + behaviour}, 4);
    for (const size_t first : {0u, 2u}) {
      EXPECT_LT(metric(reports[first], "log_w_max_abs"), 1e-4);
      EXPECT_NEAR(metric(reports[first], "phi_mean"), 1, 1e-4);
      EXPECT_EQ(metric(reports[first], "staleness_mean"), 0);
      EXPECT_GT(metric(reports[first + 1], "log_w_max_abs"), 1e-3);
      EXPECT_EQ(metric(reports[first + 1], "staleness_mean"), 1);
    }
  }
  EXPECT_LT(metric(run(1, {}, 1)[0], "log_w_first_max_abs"), 1e-4);
}

// Over one epoch: 15 rounds of 8 prompts.
TEST(Reinforcement, ACurriculumOrdersPromptsAndEveryRoundHoldsEveryLevel) {
  const std::vector<std::string> overrides = {"curriculum={name: length, low: 0.05, high: 0.95}",
                                              "tasks.levels=[1, 6]", "train.steps=30", "data.seq_len=80"};
  const Dataset set = problems(rl_run(overrides));
  std::vector<double> length;  // mean over the round's harder prompts
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(rl_run(overrides), set, world);
    for (int round = 0; round < 15; ++round) {
      double sum = 0, count = 0;
      const std::vector<int64_t> drawn = state.feed.next(state.progress).documents;
      ASSERT_EQ(drawn.size(), 8u);
      for (const int64_t d : drawn) {
        if (set.train->document(d).domain == 0) continue;
        sum += double(set.train->document(d).length);
        ++count;
      }
      ASSERT_GT(count, 0);
      ASSERT_LT(count, 8);
      length.push_back(sum / count);
    }
  });
  EXPECT_LT(std::accumulate(length.begin(), length.begin() + 5, 0.0) + 0.5,
            std::accumulate(length.end() - 5, length.end(), 0.0));
}

TEST(Reinforcement, RefusesWhatNeedsTextThatStands) {
  const auto message = [](const std::string& override) {
    const std::vector<std::string> overrides = {override};
    const Dataset set = problems(rl_run(overrides));
    std::string text;
    comm::run_threads(1, [&](comm::World& world) {
      try {
        TrainState state(rl_run(overrides), set, world);
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::kUsage);
        text = e.what();
      }
    });
    return text;
  };
  EXPECT_NE(message("selector={name: rho1, reference: here}").find("samples its own"), std::string::npos);
  EXPECT_NE(message("influence.period=2").find("prompts have no answers"), std::string::npos);
}

TEST(Reinforcement, VespoAtWeightOneIsReinforce) {
  const auto vespo = run(1, {}, 1)[0];
  const auto plain = run(1, {"objective={name: reinforce, tis_cap: 0}"}, 1)[0];
  EXPECT_NEAR(vespo.loss, plain.loss, 1e-5);
  EXPECT_NEAR(vespo.grad_norm, plain.grad_norm, 1e-4 * plain.grad_norm);
}

TEST(Reinforcement, IsVespoUnlessTheFileNamesAnother) {
  std::string text = kRun;
  text.erase(text.find("objective:"), text.find("mixer:") - text.find("objective:"));
  const auto resolved = [&](const std::vector<std::string>& overrides) {
    return YAML::Load(resolved_yaml(read_run(base::parse_run_text(text, "rl.yaml", overrides))))["objective"];
  };
  EXPECT_EQ(resolved({})["name"].as<std::string>(), "vespo");
  const YAML::Node own = resolved({"objective={positive: [1, 2]}"});
  EXPECT_EQ(own["name"].as<std::string>(), "vespo");
  EXPECT_EQ(own["positive"][1].as<int>(), 2);
  EXPECT_EQ(resolved({"objective=grpo"}).as<std::string>(), "grpo");
}

// All that the authors' code logs, and what is needed to read it.
TEST(Reinforcement, EveryLineHasTheMetricsOfTheSpecification) {
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

// The line says what happened and the counter how often; the run goes on with rewards of 0.
TEST(Reinforcement, WhatARewardCannotJudgeIsSaidOnceARound) {
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

TEST(Reinforcement, AStopTextEndsAResponseWhateverItsTokens) {
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

TEST(Reinforcement, StopsBeforeTheUpdateWhenSamplingAndTrainingDisagree) {
  for (const std::string behaviour : {"old", "rollout"}) {
    const std::vector<std::string> overrides = {"rollout.max_first_log_w=1e-12",
                                                "objective.behaviour=" + behaviour};
    const Dataset set = problems(rl_run(overrides));
    comm::run_threads(2, [&](comm::World& world) {
      TrainState state(rl_run(overrides), set, world);
      const auto values = state.model.store.values(device::Group::kDense);
      const std::vector<float> before(values.begin(), values.end());
      try {
        train_step(state, {});
        ADD_FAILURE() << "float rounding is above 1e-12";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kNumeric);
        EXPECT_NE(std::string(error.what()).find("routing_replay"), std::string::npos) << error.what();
      }
      EXPECT_EQ(std::vector<float>(values.begin(), values.end()), before) << "the weights were updated";
    });
  }
}

// Dynamic sampling leaves groups over, and the stop is in the middle of a round.
TEST(Reinforcement, AKilledRunGoesOnBitByBit) {
  const std::vector<std::string> overrides = {"rollout.mini_batches=3", "rollout.rounds=3",
                                              "train.global_batch=8", "train.micro_batch=2"};
  auto straight = run(2, overrides, 9);
  TempFolder folder;
  std::vector<StepReport> resumed;
  for (const uint64_t until : {2u, 4u, 8u}) {
    for (StepReport& report : run(2, overrides, until, folder.path())) resumed.push_back(std::move(report));
  }
  const double last = metric(straight.back(), "reward_mean");
  straight.pop_back();
  EXPECT_EQ(losses(resumed), losses(straight));
  EXPECT_EQ(norms(resumed), norms(straight));
  EXPECT_EQ(rewards(resumed), rewards(straight));
  EXPECT_GT(metric(straight[0], "equal_groups_fraction"), 0);
  // Another number of ranks goes on too, with the same samples.
  EXPECT_EQ(rewards(run(1, overrides, 9, folder.path())), std::vector<double>{last});
}

TEST(Reinforcement, GroupsOfEqualRewardsAreReplaced) {
  for (const StepReport& report : run(1, {"rollout.rounds=8"}, 4)) {
    // 4 groups of 4; in each between one and three responses are right.
    EXPECT_GE(metric(report, "reward_mean"), 0.25);
    EXPECT_LE(metric(report, "reward_mean"), 0.75);
  }
}

TEST(Reinforcement, OverlongResponsesArePunishedOrLeftOut) {
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

TEST(Reinforcement, ReplayedRoutingTrainsTheSameWhereNothingDiffers) {
  const auto with = run(2, {"rollout.routing_replay=true", "mesh.ep=2"}, 4),
             without = run(2, {"mesh.ep=2"}, 4);
  EXPECT_NEAR(with[0].loss, without[0].loss, 1e-6);
  EXPECT_NEAR(with[0].grad_norm, without[0].grad_norm, 1e-4 * without[0].grad_norm);
}

TEST(Reinforcement, RefusesWhatCannotBeTrainedOn) {
  const Dataset set = problems(rl_run({}));
  comm::run_threads(1, [&](comm::World& world) {
    for (const char* bad : {"rollout.group=1", "rollout.temperature=0.7", "rollout.top_p=0.9",
                            "train.global_batch=18", "objective=cross_entropy", "data.seq_len=30"})
      EXPECT_THROW(TrainState(rl_run({bad}), set, world), Error) << bad;
    const Dataset text = testing::tiny_dataset();
    EXPECT_THROW(TrainState(rl_run({}), text, world), Error);
    EXPECT_THROW(TrainState(testing::tiny_run({"data.seq_len=48"}), set, world), Error);
  });
  EXPECT_THROW(rl_run({"rollout.grup=4"}), Error);
  EXPECT_THROW(rl_run({"rollout.overlong_buffer=9"}), Error);
  EXPECT_THROW(rl_run({"tasks.levels=[7]"}), Error);
  EXPECT_THROW(rl_run({"reward.name=exact"}), Error);
}

TEST(Reinforcement, ConversationsOfATaskAreFineTunedOnTheirAnswers) {
  std::string text = kRun;
  text.erase(text.find("reward:"), text.find("objective:") - text.find("reward:"));
  const RunConfig config =
      read_run(base::parse_run_text(text, "sft.yaml", {"objective=cross_entropy", "data.pack=true"}));
  const Dataset set = problems(config);
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(read_run(base::parse_run_text(text, "sft.yaml", {"objective=cross_entropy"})), set,
                     world);
    const StepReport report = train_step(state, {});
    EXPECT_LE(report.counts.trained_tokens, 16 * 5) << "a space, at most three characters and eos each";
    EXPECT_GE(report.counts.trained_tokens, 16 * 3);
  });
}

// The smallest task that can be learned: to write what the pattern looks for.
TEST(Reinforcement, RewardRises) {
  const auto reports = run(1, {"optim.lr=1e-2", "train.steps=60", "train.global_batch=32"}, 60);
  const auto mean = [&](size_t begin) {
    double sum = 0;
    for (size_t i = begin; i < begin + 10; ++i) sum += metric(reports[i], "reward_mean") / 10;
    return sum;
  };
  EXPECT_LT(mean(0), 0.6);
  EXPECT_GT(mean(50), 0.9);
}

TEST(Reinforcement, HeldOutRewardIsThatOfTheLikeliestResponse) {
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

// A dense layer, and one of whose four experts a row chooses two: 5 rows leave each out with a chance of 1 in 32.
TEST(RolloutBench, CountsWhatIsDrawnAndWhatMustBeRead) {
  comm::run_threads(2, [&](comm::World& world) {
    RunConfig config = rl_run({"model.tie_head=false", "model.vocab=40", "mesh.ep=2"});
    const RolloutBenchResult r =
        bench_rollout(config, world, {.prompts = 5, .prompt_tokens = 7, .new_tokens = 9, .repeats = 2});
    EXPECT_EQ(r.new_tokens, 2 * 5 * 9);
    EXPECT_EQ(r.passes, 9);
    ASSERT_EQ(r.seconds.size(), 2u);
    const double d = 16, attention = 2 * d * d + 2 * d * 8,
                 norms = 2 * d;  // 2 heads of 8, 1 for keys and values
    const double dense =
        2 * (attention + norms) + 3 * d * 24 + d + 40 * d + 4 * d;  // and final norm, head, router
    const double experts = 2 * 3 * d * 12 * (1 - std::pow(0.5, 5));
    const double cache = 5 * (7 + 8 + 9 + 10 + 11 + 12 + 13 + 14 + 15) * 2 * 2 * 8;
    EXPECT_NEAR(r.bytes, 4 * (9 * (dense + experts) + cache), 1);
    EXPECT_GT(r.bandwidth, 0);
    EXPECT_EQ(r.drift.responses, 5);
    EXPECT_LE(r.drift.largest, 2e-5);
    EXPECT_GT(r.drift.mean, 0) << "rounding differs somewhere";
    EXPECT_GE(r.drift.largest, r.drift.mean);
    EXPECT_LE(r.drift.log_w_std, 9 * r.drift.largest);
    EXPECT_THROW(bench_rollout(config, world, {.prompts = 1, .prompt_tokens = 40, .new_tokens = 9}), Error);
  });
}

}  // namespace
}  // namespace cadre::trainer
