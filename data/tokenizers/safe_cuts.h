// Where a word may be cut without changing its ids, because no merge reaches across. Files in SentencePiece's
// style hand whole documents to the model as one word; cut into short segments, most of them are found in a
// cache.
#pragma once

#include <bitset>
#include <string>
#include <string_view>

#include "data/tokenizers/bpe.h"

namespace cadre::data {

class SafeCuts {
 public:
  // `mark`: what stands for a blank in the vocabulary; may be empty.
  SafeCuts(const BpeSource& source, std::string mark);

  // Length of the first segment of the text; text.size() when it cannot be cut. text is not empty.
  size_t first_segment(std::string_view text) const;

 private:
  static size_t index(char left, char right) {
    return size_t(static_cast<uint8_t>(left)) << 8 | static_cast<uint8_t>(right);
  }

  std::string mark_;
  bool possible_ = false;          // no unk and no merge of fallback bytes can join what is cut
  bool before_mark_ = false;       // between another character and a mark
  std::bitset<65536> neighbours_;  // byte pairs that stand side by side in what some merge makes
};

}  // namespace cadre::data
