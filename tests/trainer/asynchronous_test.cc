// Training on sampled responses where some ranks sample and others train: no sample is lost or used twice, tokens are not
// older than the budget, and a killed run goes on.
#include <algorithm>
#include <fstream>
#include <numeric>

#include "parallel/comm/sub_world.h"
#include "tests/trainer/reinforcement_fixture.h"

namespace cadre::trainer {
namespace {

using testing::TempFolder;
using testing::rl::metric;
using testing::rl::problems;
using testing::rl::rl_run;

// Asynchronous runs: `body` on the ranks that train.
template <class Body>
void with_samplers(int ranks, const std::vector<std::string>& overrides, const Body& body) {
  const Dataset set = problems(rl_run(overrides));
  comm::run_threads(ranks, [&](comm::World& world) {
    const RunConfig config = rl_run(overrides);
    const int trainers = num_trainers(config, ranks);
    const bool trains = world.rank() < trainers;
    const auto all = all_ranks(config, world);
    comm::SubWorld part(world, trains ? 0 : trainers, trains ? trainers : ranks - trainers, trains ? 0 : 1);
    if (!trains) return serve(config, set, part, *all);
    TrainState state(config, set, part, all.get());
    body(state);
    state.rollouts->close();
  });
}

TEST(AsynchronousReinforcement, RanksWaitForOneAnotherAsLongAsTheRunFileSays) {
  comm::run_threads(2, [&](comm::World& world) {
    const RunConfig config = rl_run({"mesh.timeout_s=7.5"});
    EXPECT_EQ(all_ranks(config, world)->timeout(), std::chrono::milliseconds(7500));
  });
}

// The sequences of a batch in one order, whatever rows they stand in.
std::vector<std::vector<int32_t>> tokens_of(const data::LoadedBatch& batch) {
  std::vector<std::vector<int32_t>> all;
  for (const Batch& micro : batch.micro) {
    for (int64_t row = 0; row < micro.num_sequences; ++row) {
      std::vector<int32_t>& tokens = all.emplace_back();
      for (int64_t i = row * micro.seq_len; i < (row + 1) * micro.seq_len; ++i) {
        if (micro.segment[size_t(i)] >= 0) tokens.push_back(micro.targets[size_t(i)]);
      }
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

const std::vector<std::string> kAsync = {"rollout.mini_batches=1", "objective.behaviour=rollout",
                                         "rollout.samplers=1", "rollout.staleness=2"};

std::vector<std::string> async_run(std::vector<std::string> more) {
  more.insert(more.begin(), kAsync.begin(), kAsync.end());
  return more;
}

// While the weights stay as they are, who samples and when does not matter, nor stops with sequences under way.
TEST(AsynchronousReinforcement, UsesEverySampleOnceAndInOrderAcrossStops) {
  std::vector<std::vector<std::vector<int32_t>>> expected, got;
  const Dataset set = problems(rl_run({}));
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(rl_run({"rollout.mini_batches=1"}), set, world);
    for (; state.progress.step < 9; ++state.progress.step) expected.push_back(tokens_of(state.next_batch()));
  });
  std::string rollouts;
  nlohmann::json feed;
  for (const uint64_t until : {2u, 5u, 9u}) {
    with_samplers(3, async_run({"rollout.samplers=2"}), [&](TrainState& state) {
      state.progress.step = got.size();
      if (!rollouts.empty()) {
        state.feed.load(feed);
        state.rollouts->load(rollouts);
      }
      for (; state.progress.step < until; ++state.progress.step) got.push_back(tokens_of(state.next_batch()));
      rollouts = state.rollouts->save();
      feed = state.feed.save();
    });
  }
  for (size_t step = 0; step < expected.size(); ++step)
    EXPECT_TRUE(got.at(step) == expected[step]) << "step " << step;
}

// The weights hardly move, so that what is drawn does not depend on when it is. The run dies two updates after its checkpoint.
TEST(AsynchronousReinforcement, AKilledRunLosesAndRepeatsNoSample) {
  const std::vector<std::string> still = {"optim={name: adamw, lr: 1.0e-12, weight_decay: 0}"};
  using Batches = std::vector<std::vector<std::vector<int32_t>>>;
  const auto steps = [](TrainState& state, uint64_t until, Batches& seen) {
    if (state.model.mesh.data().rank() == 0)
      state.on_batch = [&seen](const data::LoadedBatch& batch) { seen.push_back(tokens_of(batch)); };
    while (state.progress.step < until) train_step(state, {});
  };
  Batches expected, before, after;
  const Dataset set = problems(rl_run(still));
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(rl_run({still[0], "rollout.mini_batches=1"}), set, world);
    steps(state, 9, expected);
  });
  TempFolder folder;
  with_samplers(3, async_run({still[0], "rollout.samplers=2"}), [&](TrainState& state) {
    CheckpointWriter writer(folder.path(), state);
    steps(state, 4, before);
    writer.start();
    EXPECT_EQ(writer.finish().error, "");
    steps(state, 6, before);
  });
  with_samplers(3, async_run({still[0], "rollout.samplers=2"}), [&](TrainState& state) {
    TensorReader reader(*newest_checkpoint(folder.path(), state.model.mesh.data()));
    restore(state, reader);
    EXPECT_EQ(state.progress.step, 4u);
    steps(state, 9, after);
  });
  ASSERT_EQ(before.size(), 6u);
  ASSERT_EQ(after.size(), 5u);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(before[i] == expected[i]) << "update " << i;
  for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(after[i] == expected[i + 4]) << "update " << i + 4;
}

TEST(AsynchronousReinforcement, TokensAreNeverOlderThanTheBudget) {
  for (const int staleness : {0, 2}) {
    std::vector<StepReport> reports;
    with_samplers(
        4, async_run({"mesh.ep=2", "rollout.samplers=2", fmt::format("rollout.staleness={}", staleness)}),
        [&](TrainState& state) {
          for (int step = 0; step < 8; ++step) {
            const StepReport report = train_step(state, {});
            if (state.model.mesh.data().rank() == 0) reports.push_back(report);
          }
        });
    double oldest = 0;
    for (const StepReport& report : reports) {
      for (const auto& [age, share] : report.source.at("staleness").items())
        oldest = std::max(oldest, std::stod(age));
    }
    EXPECT_LE(oldest, staleness);
    if (staleness > 0) {
      EXPECT_GT(oldest, 0) << "the samplers should be ahead of the trainers at least once in eight updates";
    }
    EXPECT_LT(metric(reports[0], "log_w_max_abs"), 1e-4);
  }
}

// Each trainer updates its slices alone and gets the others' while the step goes on: samplers must not get what was there
// before. Without staleness every token is drawn with the present weights, so that W is 1 up to rounding.
TEST(AsynchronousReinforcement, SamplersGetWhatAllTrainersHaveUpdated) {
  std::vector<StepReport> reports;
  with_samplers(3, async_run({"rollout.staleness=0", "optim.lr=0.03"}), [&](TrainState& state) {
    for (int step = 0; step < 5; ++step) {
      const StepReport report = train_step(state, {});
      if (state.model.mesh.data().rank() == 0) reports.push_back(report);
    }
  });
  for (size_t step = 0; step < reports.size(); ++step)
    EXPECT_LT(metric(reports[step], "log_w_max_abs"), 1e-4) << "step " << step + 1;
}

TEST(AsynchronousReinforcement, ARunIsKilledResumedAndLearns) {
  TempFolder folder;
  const Dataset set = problems(rl_run({}));
  for (const char* steps : {"train.steps=20", "train.steps=60"}) {
    comm::run_threads(2, [&](comm::World& world) {
      const RunConfig config =
          rl_run(async_run({steps, "out=" + folder.path().string(), "optim.lr=1e-2", "log.every=1",
                            "train.global_batch=32", "eval.every=0", "log.tensorboard=false"}));
      EXPECT_EQ(train(config, set, world, {.measure_peak = false}), ExitCode::kOk);
    });
  }
  std::vector<double> rewards;
  std::ifstream lines(folder.path() / "metrics.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.at("kind") == "train") rewards.push_back(json.at("reward_mean").get<double>());
  }
  ASSERT_EQ(rewards.size(), 60u);
  const auto mean = [&](size_t begin) {
    return std::accumulate(&rewards[begin], &rewards[begin] + 10, 0.0) / 10;
  };
  EXPECT_LT(mean(0), 0.7);
  EXPECT_GT(mean(50), 0.85);
}

TEST(AsynchronousReinforcement, RefusesRanksAndSettingsThatDoNotFit) {
  const RunConfig config = rl_run(async_run({"mesh.ep=2"}));
  EXPECT_THROW(num_trainers(config, 4), Error);
  EXPECT_THROW(num_trainers(config, 1), Error);
  EXPECT_THROW(with_samplers(2, async_run({"objective.behaviour=old"}), [](TrainState&) {}), Error);
  EXPECT_THROW(with_samplers(2, async_run({"rollout.mini_batches=2"}), [](TrainState&) {}), Error);
}

}  // namespace
}  // namespace cadre::trainer
