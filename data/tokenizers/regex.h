// The regular expressions of tokenizer files, run by PCRE2's compiler to machine code. The reference library
// runs them on Oniguruma; the subset that means the same to both is accepted, anything else is refused with a
// message.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cadre::data {

struct Span {
  size_t begin, end;  // bytes
};

class Regex {
 public:
  // Throws Error(kData), naming `where`.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // Appends the matches from left to right. `text` must be well-formed UTF-8. Thread-safe. Throws
  // Error(kData) when the pattern needs more steps or memory than any sane one does.
  void find_all(std::string_view text, std::vector<Span>& matches) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

// The pattern in PCRE2's notation; throws Error(kData) for what is not known to mean the same there.
std::string translate_pattern(std::string_view pattern, const std::string& where);

}  // namespace cadre::data
