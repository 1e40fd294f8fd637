// What the sums of an influence probe say: influence per trained token of each domain, with its standard error.
#pragma once

#include <vector>

#include "parallel/base/batch.h"

namespace cadre::data {

// A ratio estimate: S = sum s / sum T over the documents of a domain, and its standard error from
// se^2 = n / (n - 1) (sum s^2 - 2 S sum sT + S^2 sum T^2) / (sum T)^2 (Cochran 1977, eq. 6.9 without the
// finite-population term), n = (sum T)^2 / sum T^2: so many documents of equal length would weigh as evenly (Kish
// 1965). The variance of s alone would count the spread of lengths as noise. A domain without tokens has NaN for
// value and error, one with a single document for the error.
struct InfluenceEstimate {
  std::vector<double> value, error, freedom;  // (K); freedom: degrees of Student's t for the error, n - 1
};
InfluenceEstimate estimate_influence(const InfluenceSums& sums);

}  // namespace cadre::data
