// Which expert-parallel rank computes which expert. Experts are renumbered by load: rank p of P holds the numbers
// [p S, (p + 1) S), S = E / P, and only experts of the same slot i (numbers p S + i) change places, so that what two
// ranks exchange lies at the same offsets of their memory.
#pragma once

#include <vector>

namespace cadre::moe {

// Tokens of the fullest of `ranks` ranks over the mean; 1 without tokens. loads (E): slots by expert, E a multiple of
// ranks.
double fullest_rank(const std::vector<double>& loads, int ranks);
// (E) the old number of the expert that gets each number. Every expert keeps its own unless the fullest rank's load falls
// by more than 2% of itself. Depends on its arguments alone.
std::vector<int> place_by_load(const std::vector<double>& loads, int ranks);

}  // namespace cadre::moe
