#include "data/influence_estimate.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace cadre::data {

InfluenceEstimate estimate_influence(const InfluenceSums& sums) {
  InfluenceEstimate out;
  for (size_t k = 0; k < sums.tokens.size(); ++k) {
    const double tokens = sums.tokens[k];
    const double none = std::numeric_limits<double>::quiet_NaN();
    const double value = tokens > 0 ? sums.score[k] / tokens : none;
    const double squares =
        sums.score2[k] - 2 * value * sums.score_tokens[k] + value * value * sums.tokens2[k];
    out.value.push_back(value);
    const double n = tokens > 0 ? tokens * tokens / sums.tokens2[k] : 0;
    out.error.push_back(sums.pieces[k] > 1 && n > 1 ? std::sqrt(std::max(0.0, squares) * n / (n - 1)) / tokens
                                                    : none);
    out.freedom.push_back(std::max(1.0, n - 1));
  }
  return out;
}

}  // namespace cadre::data
