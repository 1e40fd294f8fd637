// What the estimators say of each unit of the text: influence per token on every target, measured at one saved moment.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "trainer/audit/lds_units.h"
#include "trainer/run/influence_targets.h"
#include "trainer/run/train_state.h"

namespace cadre::audit {

struct UnitInfluenceConfig {
  int64_t unit_passages = 64;    // passages of data.seq_len tokens that a unit's influence is measured on
  bool ekfac = true;             // dense models only
  int64_t ekfac_passages = 200;  // that its factors are estimated on
  double ekfac_damping = 0.1;    // times the mean eigenvalue of a layer
};

// By method ("optimizer", "gradient", "ekfac"), then query (a target), then unit: influence per token.
using UnitInfluence = std::map<std::string, std::vector<std::vector<double>>>;

// The state's values are the moment; one rank, on the CPU. Throws Error(kUsage) for EK-FAC of a model with experts.
UnitInfluence unit_influence(const UnitInfluenceConfig& config, trainer::TrainState& state,
                             const std::vector<Unit>& units,
                             const std::vector<trainer::InfluenceTarget>& targets);

}  // namespace cadre::audit
