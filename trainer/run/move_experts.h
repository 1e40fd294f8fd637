// Moves experts between the ranks of an expert group, as placement by load asks for.
#pragma once

#include <string>
#include <vector>

namespace cadre::trainer {

class TrainState;

// loads: slots by expert, by MoE layer, the same on all ranks. Between steps; collective. Renumbers experts (see
// moe/placement.h): values, masters, optimizer states, averaged gradients of influence targets, rows of the router and
// balancing state. Says what was moved, a line a layer; the same on all ranks.
std::vector<std::string> move_experts(TrainState& state, const std::vector<std::vector<double>>& loads);

}  // namespace cadre::trainer
