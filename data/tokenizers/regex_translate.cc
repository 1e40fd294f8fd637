// From Oniguruma's notation to PCRE2's. Letters, digits and blanks are spelt out as classes: PCRE2's \s is
// not White_Space, and what \d or \p{..} covers must not depend on its options.
#include <algorithm>
#include <array>
#include <cctype>

#include "data/tokenizers/regex.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

constexpr std::array<std::string_view, 16> kProperties = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn",
                                                          "Mc", "N",  "Nd", "Nl", "No", "P",  "S", "Z"};
constexpr const char* kSpaces =
    "\\t\\n\\x{0b}\\f\\r "
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr const char* kNotSpaces =
    "\\x{0}-\\x{08}\\x{0e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(ExitCode::kData,
         "{}: the pattern '{}' has {} at offset {}, which this program does not know to mean the same as in "
         "the "
         "reference library; expected literals, classes, \\p{{L}} and the like, \\s \\d, groups and "
         "look-around",
         where_, pattern_, what, at_);
  }
  bool ahead(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  char next() const { return at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0'; }
  void copy(size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }

  void step() {
    switch (pattern_[at_]) {
      case '\\':
        return escape(false);
      case '[':
        return char_class();
      case '(':
        return group();
      case '{':
        return counted();
      case '^':
      case '$':
      case '.':
        refuse("an anchor or a dot");  // lines and line ends differ between the two
      default:
        copy(1);
    }
  }

  // (?: (?i: (?= (?! (?<= (?<! (?> and plain groups.
  void group() {
    if (next() != '?') return copy(1);
    for (const std::string_view head : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (ahead(head)) return copy(head.size());
    }
    refuse("a group");
  }

  // {n}, {n,}, {n,m}. A plus behind means "possessive" to PCRE2 and "repeated" to Oniguruma.
  void counted() {
    size_t end = at_ + 1;
    while (end < pattern_.size() &&
           (std::isdigit(static_cast<unsigned char>(pattern_[end])) || pattern_[end] == ','))
      ++end;
    const bool digits = end > at_ + 1 && pattern_[at_ + 1] != ',';
    if (!digits || end >= pattern_.size() || pattern_[end] != '}') refuse("a brace");
    if (end + 1 < pattern_.size() && pattern_[end + 1] == '+') refuse("a plus after a count");
    copy(end + 1 - at_);
  }

  void char_class() {
    copy(1);
    if (at_ < pattern_.size() && pattern_[at_] == '^') copy(1);
    for (bool first = true; at_ < pattern_.size(); first = false) {
      const char c = pattern_[at_];
      if (c == ']') {
        if (first) refuse("an empty class");
        return copy(1);
      }
      if (c == '[') {
        if (ahead("[:")) refuse("a named class");
        refuse("a class within a class");
      }
      if (ahead("&&")) refuse("an intersection of classes");
      if (c == '\\') {
        escape(true);
      } else {
        copy(1);
      }
    }
    refuse("a class without end");
  }

  void escape(bool in_class) {
    const char c = next();
    if (c == '\0') refuse("a backslash at the end");
    if (c == 'p' || c == 'P') return property();
    const auto put = [&](const std::string& text) {
      out_ += text;
      at_ += 2;
    };
    if (c == 's') return put(in_class ? kSpaces : "[" + std::string(kSpaces) + "]");
    if (c == 'S') return put(in_class ? kNotSpaces : "[^" + std::string(kSpaces) + "]");
    if (c == 'd') return put("\\p{Nd}");
    if (c == 'D') return put("\\P{Nd}");
    if (c == 'v' && !in_class) return put("\\x{0b}");
    if (std::string_view("rntf").find(c) != std::string_view::npos) return copy(2);
    if (c == 'x' || c == 'u') return number(c);
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) return copy(2);
    refuse("an escape");
  }

  void property() {
    const size_t close = pattern_.find('}', at_);
    if (at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{' || close == std::string_view::npos)
      refuse("a property");
    const std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    if (std::ranges::find(kProperties, name) == kProperties.end()) refuse("a property");
    copy(close + 1 - at_);
  }

  // \xhh, \x{h...}, \uhhhh.
  void number(char kind) {
    const bool braces = kind == 'x' && at_ + 2 < pattern_.size() && pattern_[at_ + 2] == '{';
    const size_t begin = at_ + (braces ? 3 : 2);
    const size_t most = braces ? 8 : kind == 'x' ? 2 : 4;
    size_t end = begin;
    while (end < pattern_.size() && end < begin + most &&
           std::isxdigit(static_cast<unsigned char>(pattern_[end])))
      ++end;
    const bool complete =
        end > begin && (braces ? end < pattern_.size() && pattern_[end] == '}' : end == begin + most);
    if (!complete) refuse("a character number");
    out_ += fmt::format("\\x{{{}}}", pattern_.substr(begin, end - begin));
    at_ = end + (braces ? 1 : 0);
  }

  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
};

}  // namespace

std::string translate_pattern(std::string_view pattern, const std::string& where) {
  constexpr size_t kMaxPattern = 1 << 14;
  require(pattern.size() <= kMaxPattern, ExitCode::kData, "{}: a pattern of {} bytes, expected at most {}",
          where, pattern.size(), kMaxPattern);
  return Translator(pattern, where).run();
}

}  // namespace cadre::data
