// How deep a JSON text from elsewhere is nested, before it is parsed: the parser does not call itself, but copying, comparing and
// writing a value does, once a level, and a text of brackets alone would use up the stack.
#pragma once

#include <string_view>

namespace cadre::base {

inline constexpr int kMaxJsonDepth = 64;  // Cadre's own files have up to eight levels

// Brackets that are open at once, at most; those in strings do not count. Exact up to where a text stops being JSON.
int json_depth(std::string_view text);

}  // namespace cadre::base
