// Supervised fine-tuning and preference training: what counts in the loss, whatever the layout.
#include <gtest/gtest.h>

#include "tests/trainer/post_training_fixture.h"
#include "trainer/run/evaluate.h"

namespace cadre::trainer {
namespace {

using namespace testing;

std::vector<StepReport> fine_tune(int ranks, const std::vector<std::string>& overrides) {
  const Dataset set = conversations();
  std::vector<StepReport> reports;
  comm::run_threads(ranks, [&](comm::World& world) {
    TrainState state(tiny_run(overrides), set, world);
    for (int step = 0; step < 6; ++step) {
      const StepReport report = train_step(state, {});
      if (world.rank() == 0) reports.push_back(report);
    }
  });
  return reports;
}

TEST(FineTuning, CountsTheAnswersAloneOnEveryLayout) {
  const auto one = fine_tune(1, {"moe.balance=none"});
  for (const StepReport& r : one) {
    EXPECT_LT(r.counts.trained_tokens, r.counts.real_tokens * 2 / 3);
    EXPECT_GT(r.counts.trained_tokens, 0);
    double tokens = 0;
    for (const double t : r.domain_tokens) tokens += t;
    EXPECT_EQ(tokens, double(r.counts.trained_tokens));
  }
  expect_same_curve(losses(fine_tune(2, {"moe.balance=none"})), losses(one), "two ranks");
  expect_same_curve(losses(fine_tune(2, {"moe.balance=none", "mesh.ep=2", "train.micro_batch=1"})),
                    losses(one), "two ranks with experts apart");
  expect_same_curve(norms(fine_tune(1, {"moe.balance=none", "train.micro_batch=8"})), norms(one),
                    "one micro-batch");
}

// The loss of the first step is the mean over the answers' tokens of the model's own log-probabilities.
TEST(FineTuning, LossIsTheMeanOverTheAnswers) {
  const Dataset set = conversations();
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(
        tiny_run({"train.global_batch=2", "train.micro_batch=2", "data.pack=false", "data.seq_len=60"}), set,
        world);
    const StepReport report = train_step(state, {});
    TrainState fresh(
        tiny_run({"train.global_batch=2", "train.micro_batch=2", "data.pack=false", "data.seq_len=60"}), set,
        world);
    const data::LoadedBatch batch = fresh.feed.next(fresh.progress);
    Batch all = batch.micro.at(0);
    all.loss_mask.assign(all.loss_mask.size(), 1.0f);
    const auto logp = fresh.model.decoder.forward(all, false);
    double sum = 0, n = 0;
    for (size_t i = 0; i < all.loss_mask.size(); ++i) {
      if (batch.micro[0].loss_mask[i] == 0) continue;
      const int64_t place = all.position[i] + 1;
      EXPECT_EQ(place / 5 % 3, 1) << "position " << i;  // the target's own place in its document
      sum -= logp[int64_t(i)];
      n += 1;
    }
    EXPECT_GT(n, 10);
    EXPECT_NEAR(report.loss, sum / n, 1e-5);
  });
}

std::vector<StepReport> prefer(int ranks, std::vector<std::string> overrides, int steps) {
  overrides.insert(overrides.begin(), kPairs.begin(), kPairs.end());
  const Dataset set = preferences();
  std::vector<StepReport> reports;
  comm::run_threads(ranks, [&](comm::World& world) {
    TrainState state(tiny_run(overrides), set, world);
    for (int step = 0; step < steps; ++step) {
      const StepReport report = train_step(state, {});
      if (world.rank() == 0) reports.push_back(report);
    }
  });
  return reports;
}

double metric(const StepReport& report, const std::string& name) {
  for (const auto& [key, value] : report.objective) {
    if (key == name) return value;
  }
  ADD_FAILURE() << "no metric " << name;
  return 0;
}

TEST(PreferenceTraining, StartsAtLnTwoAndLearnsToPrefer) {
  const auto reports = prefer(1, {"optim.lr=1.0e-2", "objective.beta=0.5", "train.steps=40"}, 40);
  EXPECT_NEAR(reports[0].loss, std::log(2.0), 1e-6);
  EXPECT_EQ(metric(reports[0], "pairs"), 8);
  EXPECT_LT(reports.back().loss, 0.4);
  EXPECT_GT(metric(reports.back(), "accuracy"), 0.8);
  EXPECT_GT(metric(reports.back(), "reward_margin_mean"), 0.5);
}

TEST(PreferenceTraining, IsTheSameOnEveryLayout) {
  const auto one = prefer(1, {}, 6);
  expect_same_curve(losses(prefer(2, {"train.micro_batch=1"}, 6)), losses(one), "two ranks");
  expect_same_curve(norms(prefer(2, {"mesh.ep=2"}, 6)), norms(one), "two ranks with experts apart", 1e-3);
  EXPECT_NEAR(metric(prefer(2, {}, 6).back(), "reward_margin_mean"), metric(one.back(), "reward_margin_mean"),
              1e-5);
}

TEST(PreferenceTraining, ResumesWithTheReferenceItStartedWith) {
  const Dataset set = preferences();
  const auto straight = losses(prefer(2, {}, 8));
  TempFolder folder;
  std::vector<double> resumed;
  for (const uint64_t until : {4u, 8u}) {
    comm::run_threads(2, [&](comm::World& world) {
      TrainState state(tiny_run(kPairs), set, world);
      CheckpointWriter writer(folder.path(), state);
      if (const auto newest = newest_checkpoint(folder.path(), state.model.mesh.data())) {
        TensorReader reader(*newest);
        restore(state, reader);
      }
      while (state.progress.step < until) {
        const double loss = train_step(state, {}).loss;
        if (world.rank() == 0) resumed.push_back(loss);
      }
      writer.start();
      EXPECT_EQ(writer.finish().error, "");
    });
  }
  EXPECT_EQ(resumed, straight);
}

TEST(PostTraining, SaysWhichDataAnObjectiveNeeds) {
  const Dataset pairs = preferences(), text = tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    EXPECT_THROW(TrainState(tiny_run({"objective=dpo"}), text, world), Error);
    EXPECT_THROW(TrainState(tiny_run({"data.pack=false", "data.seq_len=40"}), pairs, world), Error);
    EXPECT_THROW(TrainState(tiny_run({"objective=dpo", "data.seq_len=40"}), pairs, world), Error);
    EXPECT_THROW(TrainState(tiny_run({"objective=dpo", "data.pack=false"}), pairs, world), Error);
  });
  EXPECT_THROW(tiny_run({"objective=vespo"}), Error);
}

}  // namespace
}  // namespace cadre::trainer
