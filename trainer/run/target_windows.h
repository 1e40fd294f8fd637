// The text of one influence target, a part of which each probe reads: the next `tokens_per_probe` tokens of every domain,
// round and round. The gradient that counts is the average over probes, so that a probe may be short and all of the
// text still counts; domains keep their weights in every window.
#pragma once

#include <vector>

#include "trainer/run/document_rows.h"
#include "trainer/run/influence_targets.h"

namespace cadre::trainer {

class TargetWindows {
 public:
  // The corpus is borrowed.
  TargetWindows(const data::Corpus& corpus, const InfluenceTarget& target, const RunConfig& config);

  struct Window {
    DocumentRows rows;
    std::vector<double> token_weight;  // by domain, as in InfluenceTarget
  };
  // What probe number `probe` reads, from 0.
  Window at(int64_t probe) const;

 private:
  struct Domain {
    DocumentRows rows;
    double weight;  // of all its tokens together
    size_t index;
  };
  const data::Corpus& corpus_;
  std::vector<Domain> domains_;
  int64_t rows_per_probe_;
  int64_t seq_len_;
};

}  // namespace cadre::trainer
