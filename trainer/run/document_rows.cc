#include "trainer/run/document_rows.h"

#include <algorithm>

namespace cadre::trainer {
namespace {

Batch empty_batch(int64_t sequences, int64_t seq_len) {
  Batch batch;
  batch.num_sequences = sequences;
  batch.seq_len = seq_len;
  const size_t n = size_t(batch.num_tokens());
  batch.tokens.assign(n, 0);
  batch.targets.assign(n, 0);
  batch.loss_mask.assign(n, 0);
  batch.segment.assign(n, -1);
  batch.position.assign(n, 0);
  batch.domain.assign(n, 0);
  batch.document.assign(n, -1);
  return batch;
}

}  // namespace

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
  std::vector<int32_t> tokens;
  std::vector<uint8_t> mask;
  for (size_t s = 0; s < row.size(); ++s) {
    const Piece& piece = row[s];
    tokens.resize(size_t(piece.count) + 1);
    corpus_.read(piece.document, piece.begin, tokens);
    mask.resize(size_t(piece.count));
    corpus_.read_mask(piece.document, piece.begin + 1, mask);
    const int32_t domain = corpus_.document(piece.document).domain;
    for (int64_t i = 0; i < piece.count; ++i, ++at) {
      const size_t t = size_t(at);
      batch.tokens[t] = tokens[size_t(i)];
      batch.targets[t] = tokens[size_t(i) + 1];
      batch.loss_mask[t] = mask[size_t(i)];
      batch.segment[t] = int32_t(s);
      batch.position[t] = int32_t(i);
      batch.domain[t] = domain;
      batch.document[t] = piece.document;
    }
  }
}

}  // namespace cadre::trainer
