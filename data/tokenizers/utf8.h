// Well-formed UTF-8, as Unicode's table 3-7 defines it: no overlong forms, no surrogates, nothing above
// U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cadre::data {

// Bytes of the character that starts at p, or 0 when none is well formed there. p < end.
inline size_t utf8_length(const char* p, const char* end) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(p[i]); };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const size_t left = static_cast<size_t>(end - p);
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return left >= 2 && tail(1) ? 2 : 0;
  if (lead < 0xf0) {
    if (left < 3 || !tail(1) || !tail(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;   // overlong
    if (lead == 0xed && byte(1) >= 0xa0) return 0;  // surrogates
    return 3;
  }
  if (lead > 0xf4 || left < 4 || !tail(1) || !tail(2) || !tail(3)) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;   // overlong
  if (lead == 0xf4 && byte(1) >= 0x90) return 0;  // above U+10FFFF
  return 4;
}

// Offset of the first byte that is not part of well-formed UTF-8; text.size() when all of it is.
inline size_t find_invalid_utf8(std::string_view text) {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* p = begin;
  while (p < end) {
    if (static_cast<uint8_t>(*p) < 0x80) {
      ++p;
      continue;
    }
    const size_t length = utf8_length(p, end);
    if (length == 0) break;
    p += length;
  }
  return static_cast<size_t>(p - begin);
}

}  // namespace cadre::data
