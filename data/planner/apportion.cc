// The largest-remainder rule with carried error and bounds.
#include "data/planner/apportion.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace cadre::data {
namespace {

using Counts = std::vector<int64_t>;

size_t largest(const Counts& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) -
                             values.begin());  // ties: the first
}

// Units of the active shares only, adding up to kWeightUnit again; empty when they have no weight.
Counts active_units(const Counts& units, const std::vector<bool>& active) {
  Counts out(units.size(), 0);
  int64_t sum = 0;
  for (size_t k = 0; k < units.size(); ++k) sum += active[k] ? units[k] : 0;
  if (sum == 0) return {};
  int64_t rest = kWeightUnit;
  for (size_t k = 0; k < units.size(); ++k) {
    if (active[k]) out[k] = static_cast<int64_t>(__int128(units[k]) * kWeightUnit / sum);
    rest -= out[k];
  }
  out[largest(out)] += rest;
  return out;
}

// One application of the rule over the active shares. q in units of 2^-32; >> is floor also below zero.
Counts round_shares(int64_t total, const Counts& q, const std::vector<bool>& active) {
  Counts n(q.size(), 0);
  int64_t sum = 0;
  for (size_t k = 0; k < q.size(); ++k) {
    if (active[k]) n[k] = std::max<int64_t>(0, q[k] >> 32);
    sum += n[k];
  }
  for (; sum != total; sum += sum < total ? 1 : -1) {
    size_t best = q.size();
    for (size_t k = 0; k < q.size(); ++k) {
      if (!active[k] || (sum > total && n[k] == 0)) continue;
      const auto remainder = [&](size_t i) { return q[i] - n[i] * kWeightUnit; };
      if (best == q.size() || (sum < total ? remainder(k) > remainder(best) : remainder(k) < remainder(best)))
        best = k;
    }
    n[best] += sum < total ? 1 : -1;
  }
  return n;
}

}  // namespace

std::vector<int64_t> weight_units(const std::vector<double>& weights) {
  Counts units;
  int64_t rest = kWeightUnit;
  for (const double w : weights) {
    units.push_back(std::llround(w * double(kWeightUnit)));
    rest -= units.back();
  }
  units[largest(units)] += rest;
  return units;
}

std::optional<std::vector<int64_t>> apportion(int64_t total, const std::vector<int64_t>& units,
                                              const std::vector<int64_t>& available,
                                              std::vector<int64_t>& error) {
  const size_t num = units.size();
  Counts counts(num, 0), carried = error;
  std::vector<bool> active(num);
  for (size_t k = 0; k < num; ++k) active[k] = available[k] > 0;
  for (;;) {
    const Counts share = active_units(units, active);
    if (share.empty()) {
      if (total > 0) return std::nullopt;
      error = carried;
      return counts;
    }
    // An error that can no longer be paid back where it arose goes to the largest of the rest, so that they
    // still sum to 0.
    const size_t heir = largest(share);
    for (size_t k = 0; k < num; ++k) {
      if (!active[k]) carried[heir] += std::exchange(carried[k], 0);
    }
    Counts q(num, 0);
    for (size_t k = 0; k < num; ++k) q[k] = active[k] ? total * share[k] + carried[k] : 0;
    const Counts n = round_shares(total, q, active);
    bool within = true;
    for (size_t k = 0; k < num; ++k) {
      if (n[k] <= available[k]) continue;
      within = false;
      active[k] = false;
      counts[k] = available[k];
      total -= available[k];
    }
    if (!within) continue;
    for (size_t k = 0; k < num; ++k) {
      if (!active[k]) continue;
      counts[k] = n[k];
      carried[k] = q[k] - n[k] * kWeightUnit;
    }
    error = carried;
    return counts;
  }
}

}  // namespace cadre::data
