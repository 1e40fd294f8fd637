// Advantages of sampled sequences from their rewards, relative to the other samples of the same prompt.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/base/config.h"

namespace cadre::optim {

enum class AdvantageKind {
  kMean,  // R - mean of the group (Dr. GRPO, VESPO's paper); a group of one: R
  kMeanStd,  // (R - mean) / (std + 1e-6), n - 1 in the variance (GRPO, VESPO's runs); a group of one: R / (1 + 1e-6)
  kRloo,   // n / (n - 1) (R - mean) (RLOO); a group of one: 0
  kGiven,  // R itself is the advantage
};
AdvantageKind read_advantage(base::Section& section);  // key `advantage`, default mean_std

// reward, group: (B); equal numbers are samples of one prompt. A group of equal rewards has advantage 0 exactly.
// Sequences without a trained token count in their group like any other.
std::vector<double> compute_advantages(AdvantageKind kind, std::span<const double> reward,
                                       std::span<const int64_t> group);

}  // namespace cadre::optim
