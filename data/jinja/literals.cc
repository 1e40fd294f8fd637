#include "data/jinja/literals.h"

#include <charconv>

#include "data/tokenizers/unicode.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

// The number of up to `most` digits at the start of `text`; returns how many digits it has.
size_t read_digits(std::string_view text, size_t most, int base, uint32_t& number) {
  const std::string_view digits = text.substr(0, most);
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), number, base).ptr;
  return static_cast<size_t>(end - digits.data());
}

char simple_escape(char c) {
  constexpr std::string_view kLetters = "\\'\"abfnrtv", kMeanings = "\\'\"\a\b\f\n\r\t\v";
  const size_t at = kLetters.find(c);
  return at == std::string_view::npos ? '\0' : kMeanings[at];
}

}  // namespace

size_t end_of_literal(std::string_view source, size_t at) {
  for (size_t i = at + 1; i < source.size(); ++i) {
    if (source[i] == '\\') {
      ++i;
    } else if (source[i] == source[at]) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

std::string unescape(std::string_view body, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\' || i + 1 == body.size()) {
      out += body[i];
      continue;
    }
    const char c = body[++i];
    if (const char meaning = simple_escape(c)) {
      out += meaning;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t length = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      uint32_t number = 0;
      const size_t digits = read_digits(body.substr(i + 1), length, 16, number);
      require(digits == length && number < 0x110000 && !(number >= 0xd800 && number < 0xe000),
              ExitCode::kData, "{}: the escape \\{} in '{}' names no character", where, c, body);
      append_utf8(number, out);
      i += length;
    } else if (c >= '0' && c <= '7') {
      uint32_t number = 0;
      i += read_digits(body.substr(i), 3, 8, number) - 1;
      append_utf8(number, out);
    } else if (c == 'N') {
      fail(ExitCode::kData, "{}: escapes by name, as in '{}', are not supported", where, body);
    } else if (c != '\n') {
      out += '\\';
      out += c;
    }
  }
  return out;
}

}  // namespace cadre::data::jinja
