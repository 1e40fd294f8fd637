// What the sums of an influence probe say: influence per trained token of each domain, with its standard error.
#pragma once

#include <vector>

#include "parallel/base/batch.h"

namespace cadre::data {

// A ratio estimate: S = sum s / sum T over the pieces of a domain, and its standard error from
// se^2 = (sum s^2 - 2 S sum sT + S^2 sum T^2) / (sum T)^2 (Cochran 1977, eq. 6.9 without the finite-population
// term). The variance of s alone would count the spread of lengths as noise. A domain without tokens has NaN for
// both.
struct InfluenceEstimate {
  std::vector<double> value, error;  // (K)
};
InfluenceEstimate estimate_influence(const InfluenceSums& sums);

}  // namespace cadre::data
