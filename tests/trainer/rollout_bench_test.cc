// The bench of sampling against a count by hand.
#include "trainer/run/bench_rollout.h"

#include <cmath>

#include "tests/trainer/reinforcement_fixture.h"

namespace cadre::trainer {
namespace {

using testing::rl::rl_run;

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
