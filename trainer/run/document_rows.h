// Whole documents as micro-batches in which every token but the first of each (bos) is predicted once: what
// evaluation, influence targets and scoring read. Each document stands on its own.
#pragma once

#include <vector>

#include "data/corpus.h"
#include "parallel/base/batch.h"

namespace cadre::trainer {

class DocumentRows {
 public:
  // Documents in the given order, cut into pieces of at most seq_len tokens that overlap by one, the target of
  // one and the input of the next. pack: several pieces share a row; only where attention does not cross
  // documents. The corpus is borrowed.
  DocumentRows(const data::Corpus& corpus, const std::vector<int64_t>& documents, int64_t seq_len, bool pack);

  int64_t num_rows() const { return int64_t(rows_.size()); }
  int64_t trained_tokens() const;
  // Rows [first, first + count), as far as there are; and other rows of the same corpus behind these.
  DocumentRows window(int64_t first, int64_t count) const;
  void append(const DocumentRows& other);
  // Rows of padding behind these, up to a multiple of count.
  void pad(int64_t count);
  // Row r belongs to rank r % ranks. Every rank has the same number of micro-batches, since forward passes are
  // collective over expert groups; the last ones may hold padding only.
  int64_t micro_batches(int64_t sequences, int ranks) const;
  Batch micro_batch(int64_t index, int64_t sequences, int rank, int ranks) const;

 private:
  struct Piece {  // inputs [begin, begin + count) of a document
    int64_t document = 0, begin = 0, count = 0;
  };
  using Row = std::vector<Piece>;
  int64_t rows_per_rank(int ranks) const { return (num_rows() + ranks - 1) / ranks; }
  void fill(const Row& row, int64_t at, Batch& batch) const;

  const data::Corpus& corpus_;
  int64_t seq_len_;
  std::vector<Row> rows_;
};

}  // namespace cadre::trainer
