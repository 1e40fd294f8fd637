// From scores of tokens to scores of documents and domains.
#pragma once

#include <span>
#include <vector>

#include "parallel/base/batch.h"

namespace cadre::trainer {

// One piece of a document in one sequence, or the whole sequence where attention crosses documents: a part of
// it would have influence on the losses of the others.
struct PieceScore {
  int64_t document = 0;  // of its first token
  int32_t domain = 0;
  int64_t first = 0;  // token of the micro-batch where it begins
  int64_t count = 0;  // its tokens, all in a row
  double tokens = 0;  // that count in the loss
  double score = 0;   // <D, gradient of its share of the batch loss>
};

// In the order of the micro-batch; padding is left out. scores: (N).
std::vector<PieceScore> piece_scores(const Batch& batch, std::span<const double> scores, bool mask_documents);

// Adds pieces to sums of num_domains domains, which are made when empty.
void add_pieces(std::span<const PieceScore> pieces, int num_domains, InfluenceSums& sums);

}  // namespace cadre::trainer
