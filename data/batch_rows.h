// What every micro-batch is made of: rows of padding, and pieces of documents written over it.
#pragma once

#include <span>

#include "data/corpus.h"
#include "parallel/base/batch.h"

namespace cadre::data {

// All padding.
Batch empty_batch(int64_t sequences, int64_t seq_len);

// Part `part` of `parts` of each row: tokens [part * seq_len / parts, (part + 1) * seq_len / parts). parts divides seq_len.
Batch part_of_rows(Batch batch, int part, int parts);

// Where a piece goes, and what its tokens have in common.
struct PiecePlace {
  size_t at = 0;         // in the batch, of its first input
  int32_t segment = 0;   // of its row
  int32_t position = 0;  // of its first input
  int32_t domain = 0;
  int64_t document = -1;  // in the corpus
};
// tokens: n inputs and the last one's target; counts (n): 1 for targets that count in the loss, else 0. Empty: none does.
void write_piece(std::span<const int32_t> tokens, std::span<const uint8_t> counts, const PiecePlace& place,
                 Batch& batch);
// The inputs [begin, begin + n) of place.document.
void read_piece(const Corpus& corpus, int64_t begin, int64_t n, const PiecePlace& place, Batch& batch);

}  // namespace cadre::data
