#include "trainer/influence/piece_scores.h"

#include <cstring>
#include <string>

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

void add_pieces(std::span<const PieceScore> pieces, DocumentScores& documents) {
  for (const PieceScore& piece : pieces) {
    DocumentScore& document = documents[piece.document];
    document.domain = piece.domain;
    document.tokens += piece.tokens;
    document.score += piece.score;
  }
}

InfluenceSums influence_sums(const DocumentScores& documents, int num_domains) {
  InfluenceSums sums;
  for (std::vector<double>* column : sums.columns()) column->assign(size_t(num_domains), 0.0);
  for (const auto& [index, d] : documents) {
    const size_t k = size_t(d.domain);
    sums.pieces[k] += 1;
    sums.tokens[k] += d.tokens;
    sums.tokens2[k] += d.tokens * d.tokens;
    sums.score[k] += d.score;
    sums.score2[k] += d.score * d.score;
    sums.score_tokens[k] += d.score * d.tokens;
  }
  return sums;
}

void gather_documents(const DocumentScores& mine, double scale, comm::Communicator& ranks,
                      DocumentScores& total) {
  struct Entry {
    int64_t document;
    DocumentScore score;
  };
  std::string bytes;
  for (const auto& [document, score] : mine) {
    const Entry entry{document, score};
    bytes.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
  }
  for (const std::string& theirs : ranks.gather_texts(bytes, "influence of documents")) {
    for (size_t at = 0; at < theirs.size(); at += sizeof(Entry)) {
      Entry entry;
      std::memcpy(&entry, theirs.data() + at, sizeof(entry));
      DocumentScore& document = total[entry.document];
      document.domain = entry.score.domain;
      document.tokens += entry.score.tokens;
      document.score += scale * entry.score.score;
    }
  }
}

}  // namespace cadre::trainer
