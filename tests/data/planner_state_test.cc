// A planner's state is all there is to a plan, and one that does not fit is refused.
#include <gtest/gtest.h>

#include <cmath>

#include "data/planner.h"
#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::kNone;
using testing::numbered_corpus;

std::string text_of(const BatchPlan& plan) {
  std::string out;
  for (const PlanSequence& s : plan.sequences) {
    out += fmt::format("[{}", s.domain);
    for (const PlanSegment& g : s.segments) out += fmt::format(" {}:{}+{}", g.document, g.begin, g.count);
    out += "]";
  }
  return out;
}

TEST(Planner, ContinuesIdenticallyFromAnySavedState) {
  const auto corpus = numbered_corpus({40, 17, 3}, 60);
  const PlannerConfig config{.seed = 9, .global_batch = 5, .seq_len = 16, .max_epochs = 30};
  const auto weights = [](int step) {
    return step % 2 ? std::vector<double>{0.5, 0.3, 0.2} : std::vector<double>{0.1, 0.1, 0.8};
  };
  std::vector<std::string> plans, states;
  Planner whole(config, *corpus, kNone);
  for (int step = 0; step < 30; ++step) {
    states.push_back(whole.save().dump());
    plans.push_back(text_of(whole.next(weights(step))));
  }
  for (int from = 0; from < 30; from += 4) {
    Planner resumed(config, *corpus, kNone);
    resumed.next({0, 1, 0});  // whatever it did before is forgotten
    resumed.load(nlohmann::json::parse(states[size_t(from)]));
    for (int step = from; step < 30; ++step)
      ASSERT_EQ(text_of(resumed.next(weights(step))), plans[size_t(step)]) << from << " " << step;
  }
}

TEST(Planner, AStateThatDoesNotFitIsRefusedAndChangesNothing) {
  const auto corpus = numbered_corpus({40, 17}, 60), other = numbered_corpus({40, 18}, 60);
  Planner planner({.seed = 9, .seq_len = 16}, *corpus, kNone),
      twin({.seed = 9, .seq_len = 16}, *corpus, kNone);
  planner.next({0.5, 0.5});
  const nlohmann::json good = planner.save();
  const auto refused = [&](const nlohmann::json& state, Planner& into) {
    try {
      into.load(state);
    } catch (const Error& e) {
      return e.code() == ExitCode::kCheckpoint;
    }
    return false;
  };
  Planner wrong_seed({.seed = 8, .seq_len = 16}, *corpus, kNone),
      wrong_length({.seed = 9, .seq_len = 17}, *corpus, kNone);
  Planner wrong_data({.seed = 9, .seq_len = 16}, *other, kNone);
  EXPECT_TRUE(refused(good, wrong_seed));
  EXPECT_TRUE(refused(good, wrong_length));
  EXPECT_TRUE(refused(good, wrong_data));
  for (const char* key : {"error", "streams", "batches", "bucket_error", "seed"}) {
    nlohmann::json bad = good;
    bad.erase(key);
    EXPECT_TRUE(refused(bad, twin)) << key;
  }
  for (const auto& stream :
       {nlohmann::json{0, 1000, 0, 0, 0}, {0, 0, 1000, 0, 0}, {-1, 0, 0, 0, 0}, {7, 0, 0, 0, 0}, {"x"}}) {
    nlohmann::json bad = good;
    bad["streams"][0] = stream;
    EXPECT_TRUE(refused(bad, twin)) << stream;
  }
  EXPECT_EQ(twin.save(), Planner({.seed = 9, .seq_len = 16}, *corpus, kNone).save());
  EXPECT_EQ(text_of(twin.next({0.5, 0.5})),
            text_of(Planner({.seed = 9, .seq_len = 16}, *corpus, kNone).next({0.5, 0.5})));
}

TEST(Planner, WrongWeightsAreRefused) {
  const auto corpus = numbered_corpus({4, 4}, 10);
  Planner planner({}, *corpus, kNone);
  for (const std::vector<double>& w :
       {std::vector<double>{1}, {0.5, 0.6}, {1.5, -0.5}, {std::nan(""), 1}, {0, 0}}) {
    EXPECT_THROW(planner.next(w), Error);
  }
}

}  // namespace
}  // namespace cadre::data
