// Ranks of an expert group that have parts of every expert's width: the same runs, and where that cannot be.
#include "tests/trainer/run_fixture.h"
#include "trainer/run/rebalance.h"

namespace cadre::trainer {
namespace {

using Overrides = std::vector<std::string>;

Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}

TEST(ExpertShares, OfTheWidthLearnTheSameCurve) {
  const std::string no_balance =
      "moe.balance={name: none}";  // that of micro-batches depends on how a batch is split
  const auto expected = testing::losses(testing::run_steps(1, {no_balance}, 15));
  for (const Overrides& layout : {Overrides{"mesh.ep=2"}, {"mesh.ep=4", "train.micro_batch=1"}}) {
    const int ranks = layout[0] == "mesh.ep=2" ? 2 : 4;
    for (const Overrides& how : {Overrides{}, {"train.activation_recompute=full", "mesh.zero=3"}})
      testing::expect_same_curve(testing::losses(testing::run_steps(
                                     ranks, with(with(layout, {"moe.shares=width", no_balance}), how), 15)),
                                 expected, layout[0]);
  }
}

// Every rank has the slots of all experts; the tokens of each are counted once.
TEST(ExpertShares, OfTheWidthCountEachToken) {
  const auto expected = testing::run_steps(2, {"mesh.ep=2"}, 1),
             got = testing::run_steps(2, {"mesh.ep=2", "moe.shares=width"}, 1);
  ASSERT_FALSE(expected[0].domain_experts.empty());
  ASSERT_EQ(got[0].domain_experts.size(), expected[0].domain_experts.size());
  EXPECT_EQ(got[0].expert_tokens, expected[0].expert_tokens);
  for (size_t layer = 0; layer < got[0].domain_experts.size(); ++layer)
    EXPECT_EQ(got[0].domain_experts[layer].tokens, expected[0].domain_experts[layer].tokens);
}

TEST(ExpertShares, AreWidthsWhereARankOfGpusHasFewExperts) {
  moe::MoeConfig config;
  config.num_experts = 8;
  config.width = 3584;
  EXPECT_TRUE(moe::share_widths(config, 2, true));
  EXPECT_FALSE(moe::share_widths(config, 2, false)) << "the CPU sends rows where they are routed";
  EXPECT_FALSE(moe::share_widths(config, 1, true));
  config.num_experts = 64;
  EXPECT_FALSE(moe::share_widths(config, 2, true)) << "32 experts a rank";
  config.num_experts = 8;
  config.width = 3584 + 64;
  EXPECT_FALSE(moe::share_widths(config, 2, true)) << "parts of no whole tiles";
  config.shares = moe::ExpertShares::kWidth;
  EXPECT_TRUE(moe::share_widths(config, 2, false));
  config.shares = moe::ExpertShares::kExperts;
  config.width = 3584;
  EXPECT_FALSE(moe::share_widths(config, 2, true));
}

TEST(ExpertShares, AreWholeExpertsWhereThoseAreNeeded) {
  for (const Overrides& needs :
       {Overrides{"optim={name: muon, lr: 0.003}"}, {"influence.period=2"}, {"moe.rebalance=7"}}) {
    const RunConfig automatic = testing::tiny_run(with({"mesh.ep=2"}, needs));
    EXPECT_EQ(automatic.moe->shares, moe::ExpertShares::kExperts) << needs[0];
    try {
      testing::tiny_run(with({"mesh.ep=2", "moe.shares=width"}, needs));
      ADD_FAILURE() << needs[0];
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find("moe.shares is width, but"), std::string::npos)
          << error.what();
    }
  }
  EXPECT_EQ(testing::tiny_run({"mesh.ep=2"}).moe->shares, moe::ExpertShares::kAuto);
  EXPECT_THROW(testing::tiny_run({"moe.shares=rows"}), Error);
  for (const char* refused : {"moe.dispatch=exchange", "moe.dispatch=peer", "moe.width=11"})
    EXPECT_THROW(testing::run_steps(2, {"mesh.ep=2", "moe.shares=width", refused}, 1), Error) << refused;
}

}  // namespace
}  // namespace cadre::trainer
