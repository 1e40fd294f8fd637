// Capacity, and what the moe section of a run file refuses.
#include "parallel/base/errors.h"
#include "tests/moe/rig.h"

namespace cadre::moe {
namespace {

// Three tokens of expert 0 with p = .5, .9, .7; capacity 2.
struct Crowded {
  Crowded()
      : probs{0.5, 0, 0.9, 0, 0.7, 0, 0, 1},
        offsets{0, 3, 4},
        tokens{0, 1, 2, 3},
        gates{5, 9, 7, 1},
        order(4),
        tally(3) {
    routing.num_tokens = 4;
    routing.num_experts = 2;
    routing.num_slots = 4;
    routing.probs = view(probs, {4, 2});
    routing.expert_offsets = view(offsets, {3});
    routing.slot_token = view(tokens, {4});
    routing.slot_gate = view(gates, {4});
    routing.tally = view(tally, {3});
  }
  void limit(DropPolicy policy) {
    device::CpuQueue queue(1);
    cpu_moe_kernels<double>().limit_capacity(queue, 2, policy, view(order, {4}), routing);
  }
  std::vector<double> probs;
  std::vector<int64_t> offsets;
  std::vector<int32_t> tokens;
  std::vector<double> gates;
  std::vector<int32_t> order;
  std::vector<int64_t> tally;
  Routing<double> routing;
};

TEST(Capacity, DropsTheLowestProbability) {
  Crowded crowded;
  crowded.limit(DropPolicy::kLowestProbability);
  EXPECT_EQ(crowded.tally[2], 1);
  EXPECT_EQ(crowded.routing.num_slots, 3);
  EXPECT_EQ(crowded.offsets, (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ((std::vector<int32_t>{crowded.tokens.begin(), crowded.tokens.begin() + 3}),
            (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ((std::vector<double>{crowded.gates.begin(), crowded.gates.begin() + 3}),
            (std::vector<double>{9, 7, 1}));
}

TEST(Capacity, DropsTheLastByPosition) {
  Crowded crowded;
  crowded.limit(DropPolicy::kPosition);
  EXPECT_EQ(crowded.tally[2], 1);
  EXPECT_EQ((std::vector<int32_t>{crowded.tokens.begin(), crowded.tokens.begin() + 3}),
            (std::vector<int32_t>{0, 1, 3}));
}

// Every message names the line or the table, and what to change.
TEST(MoeConfig, RefusesWhatCannotWork) {
  const std::pair<const char*, const char*> cases[] = {
      {"{num_experts: 4, top_k: 5}", "moe.top_k: found 5, expected at most num_experts = 4"},
      {"{num_expert: 4}", "num_experts"},
      {"{num_experts: -4}", "num_experts"},
      {"{num_experts: four}", "num_experts"},
      {"{capacity_factor: -1}", "capacity_factor"},
      {"{drop: random}", "lowest_probability"},
      {"{router: {name: softmax_topkk}}", "did you mean 'softmax_topk'"},
      {"{router: {name: softmax_topk, normalise: true}}", "did you mean 'normalize'"},
      {"{balance: {name: batch}}", "micro_batch"},
      {"{balance: {name: sequence, coef: -1}}", "coef"},
      {"{num_experts: 8, router: {name: sigmoid_bias, groups: 3}}", "3 groups do not divide the 8 experts"},
      {"{num_experts: 8, router: {name: sigmoid_bias, groups: 4, groups_kept: 5}}", "groups_kept"},
      {"{num_experts: 8, top_k: 4, router: {name: sigmoid_bias, groups: 4, groups_kept: 1}}",
       "hold 2 experts"},
      {"{router: expert_choice}", "balance"},
      {"{router: expert_choice, balance: none, capacity_factor: 1}", "capacity_factor"},
  };
  for (const auto& [text, part] : cases) {
    try {
      moe_config(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << text << ": " << error.what();
    }
  }
  const MoeConfig defaults = moe_config("{}");
  EXPECT_EQ(defaults.num_experts, 8);
}

}  // namespace
}  // namespace cadre::moe
