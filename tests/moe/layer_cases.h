// The layers that the tests of moe go through: every router, with and without shared experts and capacity.
#pragma once

#include "tests/moe/rig.h"

namespace cadre::moe {

struct LayerCase {
  const char* name;
  const char* text;
};
inline const LayerCase kLayerCases[] = {
    {"softmax",
     "{num_experts: 4, top_k: 2, width: 5, z_loss: 0.2, balance: {name: global_batch, coef: 0.3}}"},
    {"olmoe_shared",
     "{num_experts: 4, top_k: 2, width: 5, num_shared: 2, z_loss: 0.2, router: {name: softmax_topk, "
     "normalize: false}, "
     "balance: {name: sequence, coef: 0.3}}"},
    {"sigmoid_groups",
     "{num_experts: 8, top_k: 3, width: 5, num_shared: 1, router: {name: sigmoid_bias, route_scale: 2.5, "
     "groups: 4, "
     "groups_kept: 2}, balance: {name: previous_batch, coef: 0.3}}"},
    {"autonomy",
     "{num_experts: 4, top_k: 2, width: 5, router: {name: autonomy, rank: 3}, balance: {name: sequence, "
     "coef: 0.3}}"},
    {"autonomy_shared",
     "{num_experts: 4, top_k: 1, width: 5, num_shared: 1, router: {name: autonomy, rank: 2}, balance: none}"},
    {"expert_choice",
     "{num_experts: 4, top_k: 2, width: 5, z_loss: 0.2, router: expert_choice, balance: none}"},
    {"capacity",
     "{num_experts: 4, top_k: 2, width: 5, num_shared: 1, capacity_factor: 0.75, balance: {name: "
     "micro_batch, coef: 0.3}}"},
    {"capacity_position",
     "{num_experts: 4, top_k: 2, width: 5, capacity_factor: 0.5, drop: position, balance: {name: sequence, "
     "coef: 0.3}}"},
    {"all_experts", "{num_experts: 4, top_k: 4, width: 5, balance: none}"},
};

// Four sequences of four tokens; sequence 1 ends in padding, and so does the last token.
inline std::vector<int32_t> some_padding() {
  std::vector<int32_t> segment(16, 0);
  segment[6] = segment[7] = segment[15] = -1;
  return segment;
}

inline std::string layer_case_name(const testing::TestParamInfo<LayerCase>& info) {
  return info.param.name;
}

}  // namespace cadre::moe
