// The pre-tokenizer of a tokenizer file: cuts normalised text into the words that merges never reach across.
// Split, Digits, Metaspace, ByteLevel and sequences of them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/json_fields.h"
#include "data/tokenizers/regex.h"

namespace cadre::data {

class PreTokenizer {
 public:
  // Words of one piece of text. The text is the piece itself or a changed copy.
  struct Words {
    std::string_view text;
    std::vector<Span> spans;
    // Working memory.
    std::vector<Span> cut, matches;
    std::string copy, next_copy, stand_ins;
  };

  // From the field "pre_tokenizer" of the file's top level, null or missing for none.
  explicit PreTokenizer(const JsonFields& file);

  // `first`: the piece starts where the whole text starts.
  void apply(std::string_view piece, bool first, Words& words) const;
  bool byte_level() const { return byte_level_; }  // words reach the model as bytes
  std::string blank_mark() const;                  // what a blank becomes, when a step replaces blanks

 private:
  enum class Kind { kSplit, kMetaspace, kPrefixSpace };
  enum class Behaviour { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext };
  enum class Prepend { kNever, kFirst, kAlways };
  struct Step {
    Kind kind;
    std::optional<Regex> pattern;  // Split
    std::string literal;           // Split by a string; Metaspace: the mark
    Behaviour behaviour = Behaviour::kIsolated;
    bool invert = false;  // Split: what lies between the matches counts as the match
    bool cut = false;     // Metaspace: every mark starts a word
    Prepend prepend = Prepend::kNever;
  };
  void add(const JsonFields& step);
  void add_split(const JsonFields& step);
  void add_metaspace(const JsonFields& step);
  void add_byte_level(const JsonFields& step);

  static void split(const Step& step, Words& words);
  static void find_matches(const Step& step, Span part, Words& words);
  static void metaspace(const Step& step, bool first, Words& words);
  static void prefix_space(Words& words);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace cadre::data
