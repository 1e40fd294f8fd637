// What goes into one pass of generation over pages of keys and values, and what comes out of it.
#pragma once

#include <cstdint>
#include <vector>

namespace cadre::trainer {

struct PageShape {
  int64_t pages = 0, page_size = 16;  // tokens a page
  int64_t max_length = 0;             // tokens of the longest sequence
};

// T rows, each the next token of some sequence; several rows of one sequence stand in order. A row sees the tokens of its
// sequence up to its own position, those of this pass included. Padding rows have owner -1.
struct DecodeBatch {
  std::vector<int32_t> token, position;  // (T)
  std::vector<int32_t> owner;            // (T) row of page_table
  // (T) unless empty: a row's token is what the pass before drew for this entry of its `drawn`; -1: it is token[t].
  std::vector<int32_t> follows;
  std::vector<int32_t> page_table;  // (S, pages_per_row)
  int64_t pages_per_row = 0;
  // A token is drawn after each of these rows, with these uniform numbers; rows may repeat (samples of one prompt).
  std::vector<int32_t> drawn;
  std::vector<double> uniform;

  int64_t num_rows() const { return int64_t(token.size()); }
  int64_t num_sequences() const { return pages_per_row > 0 ? int64_t(page_table.size()) / pages_per_row : 0; }
};

template <class W>
struct Decoded {
  std::vector<int32_t> token;  // one for each entry of DecodeBatch::drawn
  std::vector<W> logp;         // of the distribution that it was drawn from
};

}  // namespace cadre::trainer
