#include "data/tokenizers/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "data/tokenizers/unicode_tables.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

constexpr uint32_t kCodePoints = 0x110000;
constexpr uint32_t kMongolianVowelSeparator = 0x180e;  // \s to PCRE2, a format character since Unicode 6.3
constexpr uint32_t kZeroWidthSpace = 0x200b;           // a format character of the same length, never \s

// Letters and so on with names of the same category, of three and of four UTF-8 bytes. Old, and outside the
// ranges that patterns of known tokenizers spell out.
struct StandIn {
  uint32_t three, four;
};
constexpr std::array<StandIn, 11> kStandIns = {{
    {0xa640, 0x10400},  // Lu
    {0xa641, 0x10428},  // Ll
    {0x1f88, 0x1f88},   // Lt: Unicode has none of four bytes
    {0xa4f8, 0x16b40},  // Lm
    {0xa000, 0x10330},  // Lo
    {0xa66f, 0x1e000},  // M
    {0xa620, 0x104a0},  // Nd
    {0xa6e6, 0x10140},  // Nl
    {0xa830, 0x10107},  // No
    {0xa673, 0x10100},  // P
    {0xa490, 0x10137},  // S
}};

const CategoryRange* find_newer(uint32_t c) {
  const auto& table = newer_code_points();
  const auto after = std::ranges::upper_bound(table, c, {}, &CategoryRange::first);
  if (after == table.begin()) return nullptr;
  const CategoryRange& range = *(after - 1);
  return c <= range.last ? &range : nullptr;
}

// One bit a code point.
class CodePointSet {
 public:
  void add(uint32_t first, uint32_t last) {
    for (uint32_t c = first; c <= last; ++c) words_[c >> 6] |= uint64_t(1) << (c & 63);
  }
  bool has(uint32_t c) const { return words_[c >> 6] >> (c & 63) & 1; }

 private:
  std::vector<uint64_t> words_ = std::vector<uint64_t>(kCodePoints / 64);
};

const CodePointSet& stand_in_set() {
  static const CodePointSet set = [] {
    CodePointSet s;
    for (const auto& range : newer_code_points()) s.add(range.first, range.last);
    s.add(kMongolianVowelSeparator, kMongolianVowelSeparator);
    return s;
  }();
  return set;
}

const CodePointSet& nfc_active_set() {
  static const CodePointSet set = [] {
    CodePointSet s;
    for (const auto& range : nfc_active()) s.add(range.first, range.last);
    return s;
  }();
  return set;
}

// Offset of the first character from `at` on that is in the set and not below `least`; text.size() when none.
size_t find_in_set(std::string_view text, size_t at, const CodePointSet& set, uint32_t least) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data() + at; p < end;) {
    if (static_cast<uint8_t>(*p) < 0x80) {
      ++p;
      continue;
    }
    const size_t length = utf8_length(p, end);
    if (length > 0) {
      const uint32_t c = code_point(p, length);
      if (c >= least && set.has(c)) return static_cast<size_t>(p - text.data());
    }
    p += std::max<size_t>(length, 1);
  }
  return text.size();
}

// Start of the character that ends before `at`, or `at` when there is none from `from` on or it is
// ill-formed.
size_t previous_character(std::string_view text, size_t from, size_t at) {
  for (size_t back = 1; back <= 4 && back <= at - from; ++back) {
    const char* const p = text.data() + at - back;
    if ((static_cast<uint8_t>(*p) & 0xc0) == 0x80) continue;
    return utf8_length(p, text.data() + at) == back ? at - back : at;
  }
  return at;
}

void append_composed(std::string_view part, std::string& out) {
  utf8proc_uint8_t* composed = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(part.data()),
                                   static_cast<utf8proc_ssize_t>(part.size()), &composed,
                                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&free)> owner(composed, free);
  require(length >= 0, ExitCode::kData, "cannot normalise {} bytes of text: {}", part.size(),
          utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(composed), static_cast<size_t>(length));
}

}  // namespace

void append_utf8(uint32_t c, std::string& out) {
  const auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | (c >> shift & 0x3f))); };
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xc0 | c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | c >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xf0 | c >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_word(uint32_t c) {
  const auto within = [c](uint32_t first, uint32_t last) { return c >= first && c <= last; };
  // Joiners, and symbols that are letters in circles and squares: alphabetic, though their category is So.
  if (within(0x200c, 0x200d) || within(0x24b6, 0x24e9) || within(0x1f130, 0x1f149) ||
      within(0x1f150, 0x1f169) || within(0x1f170, 0x1f189)) {
    return true;
  }
  if (const CategoryRange* const newer = find_newer(c)) return newer->category <= Category::kNl;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool with_stand_ins(std::string_view text, std::string& out) {
  constexpr uint32_t kLeast = 0x800;  // all of them have three or four bytes
  size_t at = find_in_set(text, 0, stand_in_set(), kLeast);
  if (at == text.size()) return false;
  out.assign(text);
  const char* const end = text.data() + text.size();
  for (std::string character; at < text.size(); at = find_in_set(text, at, stand_in_set(), kLeast)) {
    const size_t length = utf8_length(text.data() + at, end);
    const CategoryRange* const newer = find_newer(code_point(text.data() + at, length));
    const StandIn stand_in =
        newer ? kStandIns[static_cast<size_t>(newer->category)] : StandIn{kZeroWidthSpace, kZeroWidthSpace};
    character.clear();
    append_utf8(length == 3 ? stand_in.three : stand_in.four, character);
    character.copy(out.data() + at, length);
    at += length;
  }
  return true;
}

bool normalize_nfc(std::string_view text, std::string& out) {
  constexpr uint32_t kLeast = 0x300;  // the first combining mark
  const CodePointSet& active = nfc_active_set();
  size_t at = find_in_set(text, 0, active, kLeast);
  if (at == text.size()) return false;
  out.clear();
  const char* const end = text.data() + text.size();
  size_t done = 0;
  while (at < text.size()) {
    // Only the run of active characters and the one before it can change.
    size_t stop = at;
    while (stop < text.size()) {
      const size_t length = utf8_length(text.data() + stop, end);
      if (length == 0 || !active.has(code_point(text.data() + stop, length))) break;
      stop += length;
    }
    // A mark younger than the reference's tables is no mark there, but would be one to utf8proc: leave it
    // out.
    size_t start = previous_character(text, done, at);
    if (start < at &&
        utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point(text.data() + start, at - start)))
                ->combining_class != 0) {
      start = at;
    }
    out.append(text, done, start - done);
    append_composed(text.substr(start, stop - start), out);
    done = stop;
    at = find_in_set(text, stop, active, kLeast);
  }
  out.append(text, done);
  return true;
}

}  // namespace cadre::data
