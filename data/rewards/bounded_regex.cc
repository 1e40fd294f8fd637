#include "data/rewards/bounded_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

template <auto free_it>
struct Free {
  template <class T>
  void operator()(T* p) const {
    free_it(p);
  }
};

}  // namespace

struct BoundedRegex::Code {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> limits;
};

BoundedRegex::BoundedRegex(const std::string& pattern, bool whole, uint32_t match_limit,
                           const std::string& where)
    : code_(std::make_unique<Code>()) {
  // Not compiled to machine code: the interpreter alone counts every step, and stops inside one call.
  uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | PCRE2_MATCH_INVALID_UTF;
  if (whole) options |= PCRE2_ANCHORED | PCRE2_ENDANCHORED;
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                                  &error, &offset, nullptr));
  if (code_->code == nullptr) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof(text));
    fail(ExitCode::kUsage, "{}: '{}' is no regular expression: {} (at byte {})", where, pattern,
         reinterpret_cast<const char*>(text), offset);
  }
  code_->limits.reset(pcre2_match_context_create(nullptr));
  require(code_->limits != nullptr, ExitCode::kUsage, "{}: no memory to match with", where);
  pcre2_set_match_limit(code_->limits.get(), match_limit);
  pcre2_set_heap_limit(code_->limits.get(), 64 * 1024);  // KiB
}
BoundedRegex::~BoundedRegex() = default;
BoundedRegex::BoundedRegex(BoundedRegex&&) noexcept = default;

Match BoundedRegex::match(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> data(
      pcre2_match_data_create_from_pattern(code_->code.get(), nullptr));
  const int result = pcre2_match(code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                 0, data.get(), code_->limits.get());
  if (result >= 0) return Match::kYes;
  return result == PCRE2_ERROR_NOMATCH ? Match::kNo : Match::kTooManySteps;
}

}  // namespace cadre::data
