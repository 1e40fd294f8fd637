#include "data/tokenizers/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

template <auto free_it>
struct Free {
  template <class T>
  void operator()(T* p) const {
    free_it(p);
  }
};

// What one thread matches with.
struct Matcher {
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context{
      pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(size_t(1) << 15, size_t(1) << 25, nullptr)};
  Matcher() {
    require(data && context && stack, ExitCode::kData, "no memory to match patterns with");
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    // Known patterns take a few steps a byte; a hostile one is stopped within a second.
    pcre2_set_match_limit(context.get(), 10'000'000);
  }
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code;
  bool jit;
};

Regex::Regex(std::string_view pattern, const std::string& where) : code_(std::make_unique<Code>()) {
  const std::string translated = translate_pattern(pattern, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
  require(code_->code != nullptr, ExitCode::kData, "{}: the pattern '{}' is no regular expression: {}", where,
          pattern, message_of(error));
  // Not every processor has the compiler; the interpreter gives the same matches, slower.
  code_->jit = pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::find_all(std::string_view text, std::vector<Span>& matches) const {
  thread_local const Matcher matcher;
  const auto* const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* const found = pcre2_get_ovector_pointer(matcher.data.get());
  for (size_t at = 0; at < text.size();) {
    const int result = code_->jit
                           ? pcre2_jit_match(code_->code.get(), subject, text.size(), at, 0,
                                             matcher.data.get(), matcher.context.get())
                           : pcre2_match(code_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                                         matcher.data.get(), matcher.context.get());
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) {
      fail(ExitCode::kData, "a pattern of the tokenizer fails on {} bytes of text: {}", text.size(),
           message_of(result));
    }
    require(found[1] > found[0], ExitCode::kData,
            "a pattern of the tokenizer matches nothing at offset {}; expected one that matches characters",
            found[0]);
    matches.push_back({found[0], found[1]});
    at = found[1];
  }
}

}  // namespace cadre::data
