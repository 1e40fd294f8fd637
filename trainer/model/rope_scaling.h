// How fast each pair of a head turns, plain (Su et al. 2021, eq. 15) and under the rules that stretch a model
// to longer texts than it was first trained on. One table row a rule, in rope_scaling.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/base/config.h"
#include "trainer/model/config.h"

namespace cadre::trainer {

struct RopeFrequencies {
  std::vector<double> radians;  // (h / 2) a position
  double amplitude = 1;         // of cosines and sines, so that scores are scaled by its square
};
// `positions` is the length of the texts that the table is for; only the dynamic rule looks at it.
RopeFrequencies rope_frequencies(const RopeConfig& config, int64_t head_dim, int64_t positions);
// True for the dynamic rule: the same position turns by another angle when the table is for longer texts.
bool depends_on_length(const RopeConfig& config);

// {theta, scaling: {name, ...}}; throws Error(kUsage).
RopeConfig read_rope(base::Section section);
// The same as YAML, with the keys that its rule reads.
YAML::Node rope_node(const RopeConfig& config);

}  // namespace cadre::trainer
