#include "data/tokenizers/token_decoder.h"

#include "data/tokenizers/byte_level.h"
#include "data/tokenizers/normalizer.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// The byte that "<0x0A>" stands for, or -1.
int fallback_byte(std::string_view token) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const size_t high = kHex.find(token[3]), low = kHex.find(token[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

}  // namespace

TokenDecoder::TokenDecoder(const JsonFields& file) {
  require(file.has("decoder"), ExitCode::kData, "{}: no decoder, so ids cannot become text; expected one",
          file.where());
  add(file.object("decoder"));
}

void TokenDecoder::add(const JsonFields& step) {
  constexpr int64_t kMostStripped = 1 << 20;
  const std::string type = step.text("type");
  if (type == "Sequence") {
    for (const Json& part : step.list("decoders")) add({part, step.where()});
  } else if (type == "ByteLevel") {
    byte_level_ = true;
  } else if (type == "Metaspace") {
    mark_ = step.text("replacement");
    if (mark_.empty()) step.refuse("replacement", "one character");
    cut_first_ = step.flag("add_prefix_space", true) &&
                 !(step.has("prepend_scheme") && step.text("prepend_scheme") == "never");
  } else if (type == "Replace" && !byte_fallback_ && !fused_) {
    const std::string from = step.object("pattern").text("String");
    if (from.empty()) step.refuse("pattern", "a string that is not empty");
    replacements_.emplace_back(from, step.text("content"));
  } else if (type == "ByteFallback" && !fused_) {
    byte_fallback_ = true;
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Strip" && fused_ && stripped_.empty()) {
    stripped_ = step.text("content");
    if (stripped_.empty()) step.refuse("content", "one character");
    strip_start_ = static_cast<size_t>(step.number("start", 0, kMostStripped));
    strip_stop_ = static_cast<size_t>(step.number("stop", 0, kMostStripped));
  } else {
    step.refuse("type",
                "ByteLevel, Metaspace, or a sequence in the order Replace, ByteFallback, Fuse, Strip");
  }
  if (byte_level_ && (!mark_.empty() || !replacements_.empty() || byte_fallback_ || fused_))
    step.refuse("type", "nothing beside ByteLevel");
}

std::string TokenDecoder::bytes_of(std::string_view token, bool first) const {
  std::string bytes(token), next;
  // A token with characters outside the alphabet stands for itself.
  if (byte_level_) return bytes_of_token(token, next) ? next : bytes;
  if (!mark_.empty()) {
    replace_all(token, mark_, first && cut_first_ ? "" : " ", next);
    bytes = next;
  }
  for (const auto& [from, to] : replacements_) {
    next.clear();
    replace_all(bytes, from, to, next);
    std::swap(bytes, next);
  }
  const int byte = byte_fallback_ ? fallback_byte(bytes) : -1;
  return byte >= 0 ? std::string(1, static_cast<char>(byte)) : bytes;
}

std::string_view TokenDecoder::strip(std::string_view text) const {
  for (size_t i = 0; i < strip_start_ && text.starts_with(stripped_); ++i)
    text.remove_prefix(stripped_.size());
  for (size_t i = 0; i < strip_stop_ && text.ends_with(stripped_); ++i) text.remove_suffix(stripped_.size());
  return text;
}

}  // namespace cadre::data
