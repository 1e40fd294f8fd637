#include "trainer/influence/piece_scores.h"

namespace cadre::trainer {

std::vector<PieceScore> piece_scores(const Batch& batch, std::span<const double> scores,
                                     bool mask_documents) {
  std::vector<PieceScore> pieces;
  for (int64_t i = 0; i < batch.num_tokens(); ++i) {
    const size_t t = size_t(i);
    if (batch.segment[t] < 0) continue;
    const bool first = i % batch.seq_len == 0 || batch.segment[t - 1] < 0;
    if (first || (mask_documents && batch.segment[t] != batch.segment[t - 1])) {
      pieces.push_back({.document = batch.document[t], .domain = batch.domain[t], .first = i});
    }
    PieceScore& piece = pieces.back();
    ++piece.count;
    piece.tokens += batch.loss_mask[t] != 0 ? 1 : 0;
    piece.score += scores[t];
  }
  return pieces;
}

void add_pieces(std::span<const PieceScore> pieces, int num_domains, InfluenceSums& sums) {
  for (std::vector<double>* column : sums.columns()) column->resize(size_t(num_domains), 0.0);
  for (const PieceScore& piece : pieces) {
    const size_t k = size_t(piece.domain);
    sums.pieces[k] += 1;
    sums.tokens[k] += piece.tokens;
    sums.tokens2[k] += piece.tokens * piece.tokens;
    sums.score[k] += piece.score;
    sums.score2[k] += piece.score * piece.score;
    sums.score_tokens[k] += piece.score * piece.tokens;
  }
}

}  // namespace cadre::trainer
