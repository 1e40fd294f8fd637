// What only one router does: columns of expert choice, bias and groups of the sigmoid router.
#include <algorithm>

#include "parallel/base/errors.h"
#include "tests/moe/router_rig.h"

namespace cadre::moe {
namespace {

TEST(ExpertChoice, GivesEveryExpertItsBestTokensByColumn) {
  RouterRig<double> rig("{name: expert_choice}", 2);
  const auto& routing = rig.forward();
  const auto z = rig.products();
  std::vector<std::vector<double>> p;
  for (int64_t t = 0; t < kTokens; ++t)
    p.push_back(softmax({z.begin() + t * kExperts, z.begin() + (t + 1) * kExperts}));
  for (int e = 0; e < kExperts; ++e) {
    std::vector<double> column;
    for (int64_t t = 0; t < kTokens; ++t) column.push_back(rig.segment[t] >= 0 ? p[t][e] : -1);
    auto expected = best(column, kCapacity);
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(routing.tally[e], kCapacity);
    for (int i = 0; i < kCapacity; ++i) {
      EXPECT_EQ(routing.slot_token[kCapacity * e + i], expected[i]);
      EXPECT_NEAR(routing.slot_gate[kCapacity * e + i], p[expected[i]][e], 1e-12);
    }
  }
  EXPECT_FALSE(rig.router->causal());
  EXPECT_TRUE(rig.router->split_dependent());
}

TEST(SigmoidBias, MovesTheBiasAgainstTheLoadAndKeepsItsMean) {
  RouterRig<double> rig("{name: sigmoid_bias, bias_update_rate: 0.25}", 2);
  rig.router->after_step({9, 1, 5, 5, 5, 5});  // mean 5: one above, one below
  rig.router->after_step({9, 5, 5, 5, 5, 1});
  rig.router->after_step({8, 4, 4, 4, 4, 0});
  rig.router->after_step({9, 4.2, 4.2, 4.2, 4.2, 4.2});  // one above, five below: mean change 4/6 of 0.25
  StateDict state;
  rig.router->save(state, "m");
  const double shift = 0.25 * 4 / 6;
  const std::vector<double> expected = {-1 - shift,   0.5 - shift,  0.25 - shift,
                                        0.25 - shift, 0.25 - shift, 0.75 - shift};
  for (int e = 0; e < kExperts; ++e) EXPECT_NEAR(state.at("m.router.bias")[e], expected[e], 1e-12) << e;
}

TEST(SigmoidBias, ChoosesWithTheBiasButKeepsItOutOfTheGates) {
  RouterRig<double> rig("{name: sigmoid_bias}", 2), loaded("{name: sigmoid_bias}", 2);
  StateDict state = {{"m.router.bias", {0, 5, 0, 0, 9, 0}}};
  loaded.router->load(state, "m");
  const auto gates = dense_gates(loaded.forward());
  const auto z = rig.products();
  for (int64_t t = 0; t < kTokens; ++t) {
    if (rig.segment[t] < 0) continue;
    const double s1 = 1 / (1 + std::exp(-z[t * kExperts + 1])), s4 = 1 / (1 + std::exp(-z[t * kExperts + 4]));
    EXPECT_NEAR(gates[t][1], s1 / (s1 + s4), 1e-12);
    EXPECT_NEAR(gates[t][4], s4 / (s1 + s4), 1e-12);
  }
  StateDict again;
  loaded.router->save(again, "m");
  EXPECT_EQ(again, state);
  EXPECT_THROW(loaded.router->load({}, "m"), Error);
  EXPECT_THROW(loaded.router->load({{"m.router.bias", {1, 2}}}, "m"), Error);
}

TEST(SigmoidBias, NeverLeavesTheKeptGroupsEvenWhenTheirScoresAreNegative) {
  RouterRig<double> rig("{name: sigmoid_bias, groups: 3, groups_kept: 1}", 2);
  // All s + b are negative; masking with 0 instead of -infinity would choose outside the kept group.
  rig.router->load({{"m.router.bias", {-9, -9, -3, -3, -9, -9}}}, "m");
  const auto& routing = rig.forward();
  EXPECT_EQ(routing.tally[2], kReal);
  EXPECT_EQ(routing.tally[3], kReal);
}

}  // namespace
}  // namespace cadre::moe
