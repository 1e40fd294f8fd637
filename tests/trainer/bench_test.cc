// `cadre bench`: what is measured of ranks that are there, and of those that are imitated.
#include "trainer/run/bench.h"

#include <fmt/ranges.h>

#include "parallel/comm/transports.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {
namespace {

using testing::tiny_dataset;
using testing::tiny_run;

TEST(Bench, RanksThatAreThereAreTimedWithAndWithoutTheOthers) {
  comm::run_threads(2, [](comm::World& world) {
    const BenchResult r = StepBench(tiny_run({"mesh.ep=2"}), tiny_dataset(), world).run(2);
    EXPECT_EQ(r.ranks, 2);
    EXPECT_FALSE(r.imitated);
    EXPECT_GT(r.alone_seconds, 0);
    EXPECT_EQ(r.step_seconds.size(), 2u);
  });
}

TEST(Bench, ImitatedRanksAreSaidToBeSo) {
  const auto world = comm::make_imitated_world(4);
  const BenchResult r = StepBench(tiny_run({"mesh.ep=2"}), tiny_dataset(), *world).run(2);
  EXPECT_EQ(r.ranks, 4);
  EXPECT_TRUE(r.imitated);
  EXPECT_EQ(r.alone_seconds, 0) << "all its steps are alone";
}

// In every layout that ranks can have.
TEST(Bench, AnImitatedRankPlansTheMemoryOfARealOneAndTakesItsSteps) {
  for (const int ranks : {2, 4}) {
    for (const std::vector<std::string>& layout : {std::vector<std::string>{"mesh.ep=1"},
                                                   {"mesh.ep=2", "moe.dispatch=exchange"},
                                                   {"mesh.ep=2", "moe.dispatch=copy"},
                                                   {"mesh.ep=2", "moe.shares=width"},
                                                   {"mesh.cp=2"}}) {
      for (const char* zero : {"mesh.zero=0", "mesh.zero=1", "mesh.zero=2", "mesh.zero=3"}) {
        SCOPED_TRACE(fmt::format("{} ranks, {} {}", ranks, fmt::join(layout, " "), zero));
        std::vector<std::string> set = layout;
        set.push_back(zero);
        const Dataset dataset = tiny_dataset();
        const auto world = comm::make_imitated_world(ranks);
        TrainState imitated(tiny_run(set), dataset, *world);
        for (int step = 0; step < 3; ++step) EXPECT_FALSE(train_step(imitated, {}).skipped);
        comm::run_threads(ranks, [&](comm::World& real) {
          TrainState state(tiny_run(set), dataset, real);
          if (real.rank() != 0) return;
          EXPECT_EQ(imitated.model.plan.total(), state.model.plan.total());
        });
      }
    }
  }
}

// Rows that are all the same, each a document: what every rank trains on whatever the batch's size.
Dataset equal_rows(int64_t length) {
  data::MemoryDocument document;
  for (int64_t i = 0; i <= length; ++i) document.tokens.push_back(int32_t(i * i % testing::kVocab));
  document.bytes = length;
  Dataset set;
  set.train = data::make_memory_corpus({"row"}, std::vector<data::MemoryDocument>(64, document));
  set.vocab = testing::kVocab;
  return set;
}

struct StepValues {
  std::vector<float> before, after;
  std::vector<std::pair<int64_t, int64_t>> own;  // what this rank updates, by bucket
};

StepValues values_around_a_step(comm::World& world, int64_t batch) {
  const Dataset set = equal_rows(16);
  TrainState state(
      tiny_run({fmt::format("train.global_batch={}", batch), "train.clip_norm=0", "schedule.warmup=0"}), set,
      world);
  const auto values = [&] {
    const auto flat = state.model.store.values(device::Group::kDense);
    return std::vector<float>(flat.data(), flat.data() + flat.size());
  };
  StepValues t;
  t.before = values();
  train_step(state, {});
  state.reducer.finish_values();
  t.after = values();
  for (int b = 0; b < state.dense_plan.num_buckets(); ++b)
    t.own.push_back({state.dense_plan.cuts(b)[0], state.dense_plan.cuts(b)[1]});
  return t;
}

// Two ranks with one batch have twice the gradient over twice the tokens, exactly this one's: the values that this rank
// updates are those of a run on one rank, and those of the other stay.
TEST(Bench, AnImitatedRankTrainsItsShareAsItWouldAlone) {
  const auto one = comm::make_local_world(), two = comm::make_imitated_world(2);
  const StepValues alone = values_around_a_step(*one, 2), imitated = values_around_a_step(*two, 4);
  ASSERT_EQ(imitated.before, alone.before);
  std::vector<float> expected = alone.before;
  for (const auto& [begin, end] : imitated.own)
    std::copy(alone.after.begin() + begin, alone.after.begin() + end, expected.begin() + begin);
  EXPECT_EQ(imitated.after, expected);
  EXPECT_NE(imitated.after, alone.before);
  EXPECT_NE(imitated.after, alone.after);
}

}  // namespace
}  // namespace cadre::trainer
