// From scores of tokens to scores of documents and domains.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "parallel/base/batch.h"
#include "parallel/comm/communicator.h"

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

// All that a probe saw of one document, for one target. Pieces of a document are alike, so that error bars count
// documents: thirty rows in a row from one book say little more than one of them.
struct DocumentScore {
  int32_t domain = 0;
  double tokens = 0, score = 0;
};
using DocumentScores = std::map<int64_t, DocumentScore>;  // by document

void add_pieces(std::span<const PieceScore> pieces, DocumentScores& documents);
InfluenceSums influence_sums(const DocumentScores& documents, int num_domains);

// Adds the scores of all ranks, times scale, to `total`, which is the same on all of them. Collective.
void gather_documents(const DocumentScores& mine, double scale, comm::Communicator& ranks,
                      DocumentScores& total);

}  // namespace cadre::trainer
