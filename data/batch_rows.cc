#include "data/batch_rows.h"

#include <type_traits>
#include <utility>
#include <vector>

#include "parallel/base/errors.h"

namespace cadre::data {

Batch empty_batch(int64_t sequences, int64_t seq_len) {
  Batch b;
  b.num_sequences = sequences;
  b.seq_len = seq_len;
  const auto n = static_cast<size_t>(b.num_tokens());
  b.tokens.assign(n, 0);
  b.targets.assign(n, 0);
  b.loss_mask.assign(n, 0.0f);
  b.segment.assign(n, -1);
  b.position.assign(n, 0);
  b.domain.assign(n, 0);
  b.document.assign(n, -1);
  return b;
}

Batch part_of_rows(Batch batch, int part, int parts) {
  if (parts == 1) return batch;
  require(batch.seq_len % parts == 0, ExitCode::kUsage, "rows of {} tokens cannot be shared by {} ranks",
          batch.seq_len, parts);
  const auto rows = static_cast<size_t>(batch.num_sequences), whole = static_cast<size_t>(batch.seq_len);
  const size_t length = whole / static_cast<size_t>(parts), begin = static_cast<size_t>(part) * length;
  const auto keep = [&](auto& values) {
    std::remove_reference_t<decltype(values)> kept;
    kept.reserve(rows * length);
    for (size_t row = 0; row < rows; ++row) {
      const auto from = values.begin() + long(row * whole + begin);
      kept.insert(kept.end(), from, from + long(length));
    }
    values = std::move(kept);
  };
  batch.row_segment = batch.segment;
  batch.seq_len = static_cast<int64_t>(length);
  keep(batch.tokens);
  keep(batch.targets);
  keep(batch.loss_mask);
  keep(batch.segment);
  keep(batch.position);
  keep(batch.domain);
  keep(batch.document);
  return batch;
}

void write_piece(std::span<const int32_t> tokens, std::span<const uint8_t> counts, const PiecePlace& place,
                 Batch& batch) {
  for (size_t i = 0, at = place.at; i + 1 < tokens.size(); ++i, ++at) {
    batch.tokens[at] = tokens[i];
    batch.targets[at] = tokens[i + 1];
    batch.loss_mask[at] = counts.empty() ? 0 : counts[i];
    batch.segment[at] = place.segment;
    batch.position[at] = place.position + static_cast<int32_t>(i);
    batch.domain[at] = place.domain;
    batch.document[at] = place.document;
  }
}

void read_piece(const Corpus& corpus, int64_t begin, int64_t n, const PiecePlace& place, Batch& batch) {
  std::vector<int32_t> tokens(static_cast<size_t>(n) + 1);  // the last target lies one past the last input
  corpus.read(place.document, begin, tokens);
  std::vector<uint8_t> counts(static_cast<size_t>(n));
  corpus.read_mask(place.document, begin + 1, counts);
  write_piece(tokens, counts, place, batch);
}

}  // namespace cadre::data
