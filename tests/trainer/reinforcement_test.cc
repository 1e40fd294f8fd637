// Training on sampled responses: the update does not depend on the layout, a killed run goes on as if it had not been, and
// the reward rises.
#include <numeric>

#include "tests/trainer/reinforcement_fixture.h"

namespace cadre::trainer {
namespace {

using testing::expect_same_curve;
using testing::losses;
using testing::norms;
using testing::TempFolder;
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

TEST(Reinforcement, VespoAtWeightOneIsReinforce) {
  const auto vespo = run(1, {}, 1)[0];
  const auto plain = run(1, {"objective={name: reinforce, tis_cap: 0}"}, 1)[0];
  EXPECT_NEAR(vespo.loss, plain.loss, 1e-5);
  EXPECT_NEAR(vespo.grad_norm, plain.grad_norm, 1e-4 * plain.grad_norm);
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

TEST(Reinforcement, ReplayedRoutingTrainsTheSameWhereNothingDiffers) {
  const auto with = run(2, {"rollout.routing_replay=true", "mesh.ep=2"}, 4),
             without = run(2, {"mesh.ep=2"}, 4);
  EXPECT_NEAR(with[0].loss, without[0].loss, 1e-6);
  EXPECT_NEAR(with[0].grad_norm, without[0].grad_norm, 1e-4 * without[0].grad_norm);
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

}  // namespace
}  // namespace cadre::trainer
