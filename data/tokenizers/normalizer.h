// The normaliser of a tokenizer file: what is done to text before it is cut into words. NFC, Prepend, Replace
// of a string, and sequences of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/json_fields.h"

namespace cadre::data {

// `text` with every `from` replaced by `to`, appended to `out`. `from` is not empty.
void replace_all(std::string_view text, std::string_view from, std::string_view to, std::string& out);

class Normalizer {
 public:
  // From the field "normalizer" of the file's top level, null or missing for none.
  explicit Normalizer(const JsonFields& file);

  // The normalised text: `text` itself when nothing changes, else a view of one of the two buffers.
  std::string_view apply(std::string_view text, std::string& one, std::string& two) const;
  // What a blank becomes, when a step replaces blanks.
  std::string blank_mark() const;

 private:
  enum class Kind { kNfc, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from, to;
  };
  void add(const JsonFields& step);

  std::vector<Step> steps_;
};

}  // namespace cadre::data
