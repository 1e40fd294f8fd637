// data.shuffle: pieces: what a checkpoint keeps of the order.
#include <gtest/gtest.h>

#include "data/planner.h"
#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::kNone;
using testing::numbered_corpus;
using testing::words;

TEST(PlannerPiecesState, ContinuesIdenticallyFromAnySavedState) {
  const auto corpus = numbered_corpus({12, 7, 3}, 130);
  const auto weights = [](int step) {
    return step % 2 ? std::vector<double>{0.5, 0.3, 0.2} : std::vector<double>{0.1, 0.1, 0.8};
  };
  for (const bool pack : {true, false}) {
    const PlannerConfig config{
        .seed = 9, .global_batch = 5, .seq_len = 16, .pack = pack, .pieces = true, .max_epochs = 30};
    std::vector<std::string> plans, states;
    Planner whole(config, *corpus, kNone);
    for (int step = 0; step < 60; ++step) {
      states.push_back(whole.save().dump());
      plans.push_back(words(whole.next(weights(step))));
    }
    for (int from = 0; from < 60; from += 3) {
      Planner resumed(config, *corpus, kNone);
      resumed.next({0, 1, 0});
      resumed.load(nlohmann::json::parse(states[size_t(from)]));
      for (int step = from; step < 60; ++step)
        ASSERT_EQ(words(resumed.next(weights(step))), plans[size_t(step)]) << from << " " << step;
    }
  }
}

std::string refusal(const nlohmann::json& state, Planner& into) {
  try {
    into.load(state);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kCheckpoint);
    return e.what();
  }
  return "";
}

TEST(PlannerPiecesState, ARunGoesOnInTheOrderThatItBeganWith) {
  const auto corpus = numbered_corpus({12, 5}, 200);
  PlannerConfig config{.seed = 3, .global_batch = 4, .seq_len = 24};
  Planner documents(config, *corpus, kNone);
  config.pieces = true;
  Planner pieces(config, *corpus, kNone);
  documents.next({0.6, 0.4});
  pieces.next({0.6, 0.4});
  EXPECT_NE(refusal(documents.save(), pieces).find("data.shuffle: documents"), std::string::npos);
  EXPECT_NE(refusal(pieces.save(), documents).find("data.shuffle: pieces"), std::string::npos);
  nlohmann::json old = documents.save();
  const std::string next = words(documents.next({0.6, 0.4}));
  EXPECT_EQ(old.erase("shuffle"), 1u) << "checkpoints of before say nothing of it";
  EXPECT_NE(refusal(old, pieces), "");
  EXPECT_EQ(refusal(old, documents), "");
  EXPECT_EQ(words(documents.next({0.6, 0.4})), next);
}

TEST(PlannerPiecesState, AStateThatNoDrawsGiveIsRefused) {
  const auto corpus = numbered_corpus({12}, 200);
  Planner planner({.seed = 3, .global_batch = 4, .seq_len = 24, .pieces = true}, *corpus, kNone);
  planner.next({1.0});
  const nlohmann::json good = planner.save();
  EXPECT_EQ(refusal(good, planner), "");
  for (const auto& [index, value] :
       std::vector<std::pair<int, int64_t>>{{0, 1}, {1, 100}, {2, 24}, {3, 1}, {5, 1000}, {5, -1}}) {
    nlohmann::json bad = good;
    bad["streams"][0][size_t(index)] = value;
    EXPECT_NE(refusal(bad, planner), "") << index << " " << value;
  }
  nlohmann::json five = good;
  five["streams"][0].erase(size_t(5));
  EXPECT_NE(refusal(five, planner), "");
  nlohmann::json odd = good;
  odd["shuffle"] = 7;
  EXPECT_NE(refusal(odd, planner), "");
  EXPECT_EQ(planner.save(), good);
  EXPECT_THROW(Planner({.whole = true, .pieces = true}, *corpus, kNone), Error);
}

}  // namespace
}  // namespace cadre::data
