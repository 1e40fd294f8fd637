#include "data/tokenizers/byte_level.h"

#include "data/tokenizers/unicode.h"
#include "data/tokenizers/utf8.h"

namespace cadre::data {
namespace {

constexpr uint32_t kEnd = 0x144;  // the characters of the alphabet are below

std::array<int16_t, kEnd> bytes_by_character() {
  std::array<int16_t, kEnd> bytes;
  bytes.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte) bytes[byte_characters()[byte]] = static_cast<int16_t>(byte);
  return bytes;
}

}  // namespace

const std::array<uint32_t, 256>& byte_characters() {
  static const auto table = [] {
    std::array<uint32_t, 256> characters = {};
    uint32_t next = 256;  // bytes without a printable Latin-1 character take those from U+0100 on, in order
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      characters[b] = printable ? b : next++;
    }
    return characters;
  }();
  return table;
}

bool bytes_of_token(std::string_view token, std::string& bytes) {
  static const auto table = bytes_by_character();
  bytes.clear();
  const char* const end = token.data() + token.size();
  for (const char* p = token.data(); p < end;) {
    const size_t length = utf8_length(p, end);
    if (length == 0) return false;
    const uint32_t c = code_point(p, length);
    if (c >= kEnd || table[c] < 0) return false;
    bytes.push_back(static_cast<char>(table[c]));
    p += length;
  }
  return true;
}

}  // namespace cadre::data
