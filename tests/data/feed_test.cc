// The feed: reading ahead and restarts change nothing, also for mixers that learn.
#include "data/feed.h"

#include <gtest/gtest.h>

#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::LearningMixer;
using testing::numbered_corpus;

// What a run can see of a step.
struct Seen {
  std::vector<int32_t> tokens;
  std::vector<double> weights;
  bool operator==(const Seen&) const = default;
};

// A run with a made-up loss that depends on the data, so that a wrong batch changes every later weight.
class TinyRun {
 public:
  TinyRun(const Corpus& corpus, int prefetch, double max_epochs = 0)
      : mixer_(corpus.num_domains()),
        feed_({.seed = 5, .global_batch = 6, .seq_len = 16, .max_epochs = max_epochs},
              {.micro_batch = 2, .seq_len = 16, .prefetch = prefetch}, corpus, mixer_, none_) {}

  Seen step() {
    progress_.total_steps = 100;
    const LoadedBatch batch = feed_.next(progress_);
    Seen seen{{}, batch.weights};
    DomainStats stats{std::vector<double>(batch.domain_tokens.size(), 0.1),
                      std::vector<double>(batch.domain_tokens.size())};
    for (const Batch& micro : batch.micro) {
      seen.tokens.insert(seen.tokens.end(), micro.tokens.begin(), micro.tokens.end());
      for (size_t i = 0; i < micro.tokens.size(); ++i)
        stats.loss_sum[size_t(micro.domain[i])] += micro.tokens[i] % 97;
    }
    for (size_t k = 0; k < stats.tokens.size(); ++k) stats.tokens[k] = double(batch.domain_tokens[k]);
    mixer_.observe(progress_, stats);
    ++progress_.step;
    progress_.tokens += uint64_t(batch.counts.trained_tokens);
    return seen;
  }

  nlohmann::json save() const { return nlohmann::json::parse(feed_.save().dump()); }
  void load(const nlohmann::json& state, uint64_t step) {
    feed_.load(state);
    progress_.step = step;
  }
  std::vector<double> mixer_weights() { return mixer_.weights(progress_); }

 private:
  LearningMixer mixer_;
  Curriculum none_;
  Progress progress_;
  DataFeed feed_;
};

TEST(DataFeed, ResumesAtAnyStepWithTheSameBatchesAndWeights) {
  const auto corpus = numbered_corpus({30, 25, 12}, 40);
  for (const int prefetch : {0, 1, 3}) {
    TinyRun whole(*corpus, prefetch);
    std::vector<Seen> seen;
    std::vector<nlohmann::json> states = {whole.save()};
    for (int step = 0; step < 24; ++step) {
      seen.push_back(whole.step());
      states.push_back(whole.save());
    }
    EXPECT_NE(seen[5].weights, seen[20].weights);
    for (size_t from = 0; from < 24; from += 3) {
      TinyRun resumed(*corpus, prefetch);
      resumed.step();  // whatever it did before is forgotten
      resumed.load(states[from], from);
      EXPECT_EQ(resumed.save(), states[from]);  // before any step, too
      for (size_t step = from; step < 24; ++step) {
        ASSERT_EQ(resumed.step(), seen[step])
            << "prefetch " << prefetch << ", from " << from << ", step " << step;
        ASSERT_EQ(resumed.save(), states[step + 1])
            << "prefetch " << prefetch << ", from " << from << ", step " << step;
      }
    }
  }
}

TEST(DataFeed, WeightsActPrefetchStepsAfterTheNext) {
  const auto corpus = numbered_corpus({30, 25, 12}, 40);
  for (const int prefetch : {0, 1, 3}) {
    TinyRun run(*corpus, prefetch);
    std::vector<std::vector<double>> given = {run.mixer_weights()}, used;  // given[t]: before step t
    for (int step = 0; step < 20; ++step) {
      used.push_back(run.step().weights);
      given.push_back(run.mixer_weights());
    }
    for (size_t step = 0; step < 20; ++step)
      EXPECT_EQ(used[step], given[step < size_t(prefetch) ? 0 : step - size_t(prefetch)]);
  }
}

TEST(DataFeed, AnotherPrefetchAfterARestartLosesNoData) {
  const auto corpus = numbered_corpus({30, 25, 12}, 40);
  for (const auto& [before, after] : {std::pair{3, 0}, {0, 3}, {3, 1}}) {
    TinyRun whole(*corpus, before);
    for (int step = 0; step < 5; ++step) whole.step();
    TinyRun resumed(*corpus, after);
    resumed.load(whole.save(), 5);
    // The batches that were planned already come first, as they were.
    for (int step = 0; step < before; ++step) EXPECT_EQ(resumed.step(), whole.step());
    for (int step = 0; step < 5; ++step) EXPECT_EQ(resumed.step().tokens.size(), 96u);
  }
}

TEST(DataFeed, ABatchBeyondTheCapsIsAnErrorOnlyWhenItsTurnComes) {
  const auto corpus = numbered_corpus({30, 25, 12}, 40);
  std::vector<int> steps;
  for (const int prefetch : {0, 3}) {
    TinyRun run(*corpus, prefetch, 1.0);
    steps.push_back(0);
    try {
      for (;; ++steps.back()) run.step();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData);
    }
    EXPECT_GT(steps.back(), 5);
  }
  // Not one batch is lost by planning ahead; the weights differ in time, so the tails may differ by a batch.
  EXPECT_NEAR(steps[0], steps[1], 1);
}

TEST(DataFeed, AStateThatCannotBeReadIsACheckpointError) {
  const auto corpus = numbered_corpus({30, 25, 12}, 40);
  TinyRun run(*corpus, 1);
  run.step();
  for (const char* key : {"planner", "mixer", "pending_weights", "curriculum"}) {
    nlohmann::json bad = run.save();
    bad.erase(key);
    try {
      TinyRun other(*corpus, 1);
      other.load(bad, 1);
      ADD_FAILURE() << key;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kCheckpoint);
    }
  }
}

}  // namespace
}  // namespace cadre::data
