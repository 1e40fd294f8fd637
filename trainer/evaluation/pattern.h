// Regular expressions of task files, in the notation that Python's and PCRE2's have in common.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace cadre::trainer {

class Pattern {
 public:
  // Throws Error(kUsage) for a pattern that cannot be compiled.
  explicit Pattern(const std::string& pattern);
  // As Python's re.findall: the whole match, or the first group that took part where there are groups. Throws
  // Error(kData) for a text on which the pattern takes too long.
  std::vector<std::string> find_all(const std::string& text) const;
  // As re.sub(pattern, "", text).
  std::string remove_from(const std::string& text) const;

 private:
  struct Match {
    size_t begin, end;
    std::string taken;
  };
  std::vector<Match> matches(const std::string& text) const;

  std::string source_;
  std::shared_ptr<void> code_;
};

}  // namespace cadre::trainer
