// What tokenizers need of Unicode, agreeing with the reference library on every code point: character
// classes, normalisation form C, and stand-ins for characters that PCRE2's tables do not know yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cadre::data {

// The code point whose `length` well-formed bytes start at p.
inline uint32_t code_point(const char* p, size_t length) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(p[i])); };
  if (length == 1) return byte(0);
  if (length == 2) return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
  if (length == 3) return (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
  return (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
}
void append_utf8(uint32_t code_point, std::string& out);

bool is_space(uint32_t code_point);  // White_Space
bool is_word(uint32_t code_point);   // \w: alphabetic, mark, decimal digit, connector, joiner

// Characters that PCRE2 classifies otherwise than the reference are replaced by others of the right category
// and of the same length, so that offsets in the copy are offsets in the text. Returns false, and leaves
// `out` alone, when the text has none. Ill-formed bytes are copied.
bool with_stand_ins(std::string_view text, std::string& out);

// Normalisation form C. Returns false, and leaves `out` alone, when the text is in that form already.
// Ill-formed bytes are copied and end what comes before them.
bool normalize_nfc(std::string_view text, std::string& out);

}  // namespace cadre::data
