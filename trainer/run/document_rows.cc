#include "trainer/run/document_rows.h"

#include <algorithm>

#include "data/batch_rows.h"

namespace cadre::trainer {

using data::empty_batch;

DocumentRows::DocumentRows(const data::Corpus& corpus, const std::vector<int64_t>& documents, int64_t seq_len,
                           bool pack)
    : corpus_(corpus), seq_len_(seq_len) {
  int64_t room = 0;
  for (int64_t document : documents) {
    const int64_t inputs = corpus.document(document).length - 1;
    for (int64_t begin = 0; begin < inputs; begin += seq_len) {
      const int64_t count = std::min(seq_len, inputs - begin);
      if (!pack || count > room) {
        rows_.emplace_back();
        room = seq_len;
      }
      rows_.back().push_back({document, begin, count});
      room -= count;
    }
  }
}

int64_t DocumentRows::trained_tokens() const {
  int64_t sum = 0;
  std::vector<uint8_t> mask;
  for (const Row& row : rows_) {
    for (const Piece& piece : row) {
      mask.resize(size_t(piece.count));
      corpus_.read_mask(piece.document, piece.begin + 1, mask);
      sum += std::count(mask.begin(), mask.end(), 1);
    }
  }
  return sum;
}

DocumentRows DocumentRows::window(int64_t first, int64_t count) const {
  DocumentRows out(corpus_, {}, seq_len_, true);
  const int64_t begin = std::min(first, num_rows()), end = std::min(first + count, num_rows());
  out.rows_.assign(rows_.begin() + begin, rows_.begin() + end);
  return out;
}

void DocumentRows::append(const DocumentRows& other) {
  rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
}

void DocumentRows::pad(int64_t count) {
  rows_.resize(size_t((num_rows() + count - 1) / count * count));
}

int64_t DocumentRows::micro_batches(int64_t sequences, int ranks) const {
  return (rows_per_rank(ranks) + sequences - 1) / sequences;
}

Batch DocumentRows::micro_batch(int64_t index, int64_t sequences, int rank, int ranks) const {
  const int64_t first = index * sequences;
  Batch batch = empty_batch(std::min(sequences, rows_per_rank(ranks) - first), seq_len_);
  for (int64_t i = 0; i < batch.num_sequences; ++i) {
    const int64_t row = (first + i) * ranks + rank;
    if (row < num_rows()) fill(rows_[size_t(row)], i * seq_len_, batch);
  }
  return batch;
}

void DocumentRows::fill(const Row& row, int64_t at, Batch& batch) const {
  for (size_t s = 0; s < row.size(); ++s) {
    const Piece& piece = row[s];
    const data::PiecePlace place{.at = size_t(at),
                                 .segment = int32_t(s),
                                 .domain = corpus_.document(piece.document).domain,
                                 .document = piece.document};
    data::read_piece(corpus_, piece.begin, piece.count, place, batch);
    at += piece.count;
  }
}

}  // namespace cadre::trainer
