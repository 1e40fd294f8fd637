// The `influence` section of a run file.
#pragma once

#include <string>

#include "parallel/base/config.h"

namespace cadre::trainer {

// Influence of the training text on held-out text (trainer/run/probe.h). Probes run when the mixer asks for
// them, or every `period` steps just to be watched.
struct InfluenceConfig {
  int64_t period = 0;          // steps; 0: only for the mixer
  int64_t micro_batches = 16;  // that a probe scores, each of train.micro_batch sequences, over all ranks
  int64_t tokens_per_domain = 2048;  // of target text; whole documents
  int64_t tokens_per_probe = 512;    // of these, read by one probe in turn; 0: all
  std::string targets = "mean";      // mean: one target, the mean over its domains; domains: each for itself
  std::string manifest;              // of target text; empty: the held-out text of data.manifest
  std::string split = "valid";       // of that manifest
  std::string direction = "optimizer";  // optimizer: as the optimizer would step; gradient: plain SGD
  double ema = 0.9;                     // of a target's gradient from probe to probe
};
InfluenceConfig read_influence(base::Section section);
YAML::Node influence_node(const InfluenceConfig& config);

}  // namespace cadre::trainer
