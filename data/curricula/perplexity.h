// Losses of two reference models, a weak and a strong one, as curricula use them.
#pragma once

#include <string>
#include <vector>

#include "data/corpus.h"
#include "parallel/base/config.h"

namespace cadre::data {

struct ReferencePair {
  std::string weak = "weak", strong = "strong";  // names of `cadre score --kind loss`
  int64_t min_tokens = 64;                       // the mean loss of fewer is mostly noise
};
ReferencePair read_references(base::Section& section);

// By unit; NaN for one with fewer than min_tokens trained tokens.
struct PerplexityScores {
  std::vector<double> loss;        // of the strong model, nats per token
  std::vector<double> difference;  // (PPL_weak - PPL_strong) / PPL_weak, within [-1, 1]
};
PerplexityScores perplexity_scores(const ReferencePair& references, const Corpus& units);

}  // namespace cadre::data
