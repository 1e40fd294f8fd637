// How the losses of tokens become one number: the coefficient of each trained token of a sequence. Counts are
// those of the global batch; a mean over micro-batches or ranks would depend on the split.
#pragma once

#include "parallel/base/batch.h"
#include "parallel/base/config.h"

namespace cadre::optim {

// N trained tokens and B sequences with at least one, of the global batch; T trained tokens of the sequence.
enum class AggregationKind {
  kTokenMean,           // 1 / N
  kSeqMeanTokenSum,     // 1 / B
  kSeqMeanTokenMean,    // 1 / (B T)
  kSeqMeanTokenSumNorm  // 1 / (B norm_length)
};

struct Aggregation {
  AggregationKind kind = AggregationKind::kTokenMean;
  double norm_length = 0;  // of kSeqMeanTokenSumNorm

  // 0 when nothing in the global batch is trained.
  double coefficient(const BatchCounts& counts, int64_t tokens) const;
};
// Keys `aggregation` and `norm_length`.
Aggregation read_aggregation(base::Section& section, AggregationKind fallback);

}  // namespace cadre::optim
