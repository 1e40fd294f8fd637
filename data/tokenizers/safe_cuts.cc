#include "data/tokenizers/safe_cuts.h"

#include <algorithm>
#include <utility>

#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

bool all_bytes_fall_back(const BpeSource& source) {
  for (int byte = 0; byte < 256; ++byte) {
    if (!source.ids.contains(fmt::format("<0x{:02X}>", byte))) return false;
  }
  return source.byte_fallback;
}

// True when a mark stands behind another character in the token.
bool joins_mark(std::string_view token, std::string_view mark) {
  for (size_t at = token.find(mark, 1); at != std::string::npos; at = token.find(mark, at + 1)) {
    if (!token.substr(0, at).ends_with(mark)) return true;
  }
  return false;
}

}  // namespace

SafeCuts::SafeCuts(const BpeSource& source, std::string mark) : mark_(std::move(mark)) {
  possible_ = !source.byte_level && !source.ignore_merges && all_bytes_fall_back(source);
  if (!possible_) return;
  before_mark_ = !mark_.empty();
  for (const auto& [left, right] : source.merges) {
    // The symbol of a fallback byte is not spelt as the byte, so the pairs below would not show it.
    if (left.starts_with("<0x") || right.starts_with("<0x")) possible_ = false;
    const std::string token = left + right;
    if (before_mark_ && joins_mark(token, mark_)) before_mark_ = false;
    for (size_t i = 1; i < token.size(); ++i) neighbours_.set(index(token[i - 1], token[i]));
  }
}

size_t SafeCuts::first_segment(std::string_view text) const {
  if (!possible_) return text.size();
  const char* const end = text.data() + text.size();
  const auto step = [&](const char* p) { return std::max<size_t>(utf8_length(p, end), 1); };
  bool mark_before = before_mark_ && text.starts_with(mark_);
  for (size_t at = step(text.data()); at < text.size();) {
    const bool mark = before_mark_ && text[at] == mark_[0] && text.substr(at).starts_with(mark_);
    if (mark && !mark_before) return at;
    if (!neighbours_[index(text[at - 1], text[at])]) return at;
    mark_before = mark;
    at += step(text.data() + at);
  }
  return text.size();
}

}  // namespace cadre::data
