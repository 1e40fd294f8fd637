// PCRE2 on text that a model wrote: any bytes, and never more than a given number of steps.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace cadre::data {

enum class Match { kNo, kYes, kTooManySteps };

class BoundedRegex {
 public:
  // `whole`: the expression has to match all of the text. Throws Error(kUsage), naming `where`, for what is no
  // regular expression.
  BoundedRegex(const std::string& pattern, bool whole, uint32_t match_limit, const std::string& where);
  ~BoundedRegex();
  BoundedRegex(BoundedRegex&&) noexcept;
  // Thread-safe. Bytes that are not UTF-8 match nothing.
  Match match(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace cadre::data
