// Shares turned into whole numbers without sampling: the largest-remainder rule with carried error of
// data/planner.h, with an upper bound for each share. All arithmetic is in integers, so every rank and
// machine agrees.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace cadre::data {

constexpr int64_t kWeightUnit = int64_t(1) << 32;  // the integer that stands for a weight of 1

// Weights (>= 0, sum about 1) in units of 2^-32, adding up to exactly kWeightUnit: the largest takes the
// rounding error.
std::vector<int64_t> weight_units(const std::vector<double>& weights);

// Splits `total` into counts with counts[k] <= available[k], and carries the error. A share that would exceed
// its bound gets the bound; what is left of its weight and its error go to the others. Nothing when those
// that are available cannot take the total or have no weight; `error` is then as before.
std::optional<std::vector<int64_t>> apportion(int64_t total, const std::vector<int64_t>& units,
                                              const std::vector<int64_t>& available,
                                              std::vector<int64_t>& error);

}  // namespace cadre::data
