#include "optim/aggregation.h"

#include <algorithm>

namespace cadre::optim {

double Aggregation::coefficient(const BatchCounts& counts, int64_t tokens) const {
  double divisor =
      double(kind == AggregationKind::kTokenMean ? counts.trained_tokens : counts.trained_segments);
  if (kind == AggregationKind::kSeqMeanTokenMean) divisor *= double(tokens);
  if (kind == AggregationKind::kSeqMeanTokenSumNorm) divisor *= norm_length;
  return divisor > 0 ? 1 / divisor : 0;
}

Aggregation read_aggregation(base::Section& section, AggregationKind fallback) {
  const std::vector<std::string> words = {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean",
                                          "seq-mean-token-sum-norm"};
  const std::string word = section.choice("aggregation", words[size_t(fallback)], words);
  Aggregation result;
  result.kind = AggregationKind(std::find(words.begin(), words.end(), word) - words.begin());
  const bool norm = result.kind == AggregationKind::kSeqMeanTokenSumNorm;
  if (norm != section.has("norm_length")) {
    section.reject("norm_length", norm ? "missing; aggregation seq-mean-token-sum-norm divides by it"
                                       : "only aggregation seq-mean-token-sum-norm uses it; leave it out");
  }
  if (norm) result.norm_length = section.number("norm_length", 1, {.above = 0});
  return result;
}

}  // namespace cadre::optim
