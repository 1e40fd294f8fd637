#include "trainer/evaluation/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "parallel/base/errors.h"

namespace cadre::trainer {
namespace {

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

const pcre2_code* as_code(const std::shared_ptr<void>& held) {
  return static_cast<const pcre2_code*>(held.get());
}

}  // namespace

Pattern::Pattern(const std::string& pattern) : source_(pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Answers may be cut in a character, which is no reason to fail.
  pcre2_code* const code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &offset, nullptr);
  require(code != nullptr, ExitCode::kUsage, "the pattern '{}' is no regular expression: {} at {}", pattern,
          message_of(error), offset);
  code_ = std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
}

std::vector<Pattern::Match> Pattern::matches(const std::string& text) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(as_code(code_), nullptr), pcre2_match_data_free);
  std::vector<Match> found;
  const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer(data.get());
  for (size_t at = 0; at <= text.size();) {
    const int result = pcre2_match(as_code(code_), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                   0, data.get(), nullptr);
    if (result == PCRE2_ERROR_NOMATCH) break;
    require(result > 0, ExitCode::kData, "the pattern '{}' fails on a text: {}", source_, message_of(result));
    const auto part = [&](size_t i) {
      return ends[2 * i] == PCRE2_UNSET ? "" : text.substr(ends[2 * i], ends[2 * i + 1] - ends[2 * i]);
    };
    Match match{ends[0], ends[1], result == 1 && pcre2_get_ovector_count(data.get()) == 1 ? part(0) : ""};
    for (int i = 1; i < result && match.taken.empty(); ++i) match.taken = part(static_cast<size_t>(i));
    found.push_back(match);
    at = ends[1] > ends[0] ? ends[1] : ends[1] + 1;
  }
  return found;
}

std::vector<std::string> Pattern::find_all(const std::string& text) const {
  std::vector<std::string> all;
  for (Match& match : matches(text)) all.push_back(std::move(match.taken));
  return all;
}

std::string Pattern::remove_from(const std::string& text) const {
  std::string out;
  size_t at = 0;
  for (const Match& match : matches(text)) {
    out.append(text, at, match.begin - at);
    at = match.end;
  }
  return out.append(text, at);
}

}  // namespace cadre::trainer
