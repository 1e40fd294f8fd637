// Text literals of templates, with Python's escapes.
#pragma once

#include <string>
#include <string_view>

namespace cadre::data::jinja {

// Offset behind the closing quote of the literal that opens at `at`; npos when it never closes.
size_t end_of_literal(std::string_view source, size_t at);
// What stands between the quotes, escapes resolved; an unknown escape keeps its backslash. Throws Error(kData).
std::string unescape(std::string_view body, const std::string& where);

}  // namespace cadre::data::jinja
