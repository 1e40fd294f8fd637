// The clipped surrogate of PPO (Schulman et al. 2017, eq. 7) with separate bounds and a dual clip (Ye et al. 2020, eq. 5), by
// token: max(-A r, -A clip(r, 1 - low, 1 + high)), for A < 0 at most -dual_clip A. GRPO and DAPO are two sets of
// defaults.
#pragma once

#include "optim/objectives/policy.h"

namespace cadre::optim {

struct ClippedConfig {
  double eps_low = 0.2, eps_high = 0.2;
  double dual_clip = 3;  // 0: off
};

// Reads every key of the section.
template <class T>
std::unique_ptr<Objective<T>> make_clipped(base::Section section, ClippedConfig config,
                                           const PolicyDefaults& defaults);

}  // namespace cadre::optim
