#include "data/prepare/text_hash.h"

#include "parallel/base/files.h"

namespace cadre::data {

DocHash hash_text(std::string_view text) {
  const std::string hex = base::sha256_text(text);
  const auto nibble = [](char c) { return static_cast<uint8_t>(c <= '9' ? c - '0' : c - 'a' + 10); };
  DocHash hash;
  for (size_t i = 0; i < hash.size(); ++i) {
    hash[i] = static_cast<uint8_t>(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
  }
  return hash;
}

}  // namespace cadre::data
