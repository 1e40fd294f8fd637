// The decoder of a tokenizer file: from ids back to bytes. ByteLevel, Metaspace, or Replace, ByteFallback,
// Fuse and Strip in the order that Llama's files use. Unlike the reference, bytes that are no UTF-8 come back
// as they were.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizers/json_fields.h"

namespace cadre::data {

class TokenDecoder {
 public:
  // From the field "decoder" of the file's top level.
  explicit TokenDecoder(const JsonFields& file);

  // The bytes of one token; `first`: it stands first in the text.
  std::string bytes_of(std::string_view token, bool first) const;
  // What is left of the joined text.
  std::string_view strip(std::string_view text) const;

 private:
  void add(const JsonFields& step);

  bool byte_level_ = false, byte_fallback_ = false, fused_ = false, cut_first_ = false;
  std::string mark_;                                               // Metaspace
  std::vector<std::pair<std::string, std::string>> replacements_;  // in order
  std::string stripped_;                                           // the character that Strip takes away
  size_t strip_start_ = 0, strip_stop_ = 0;                        // at most so many of them
};

}  // namespace cadre::data
