// Tokens that stand beside the model's vocabulary and are found in text before the model sees it: chat marks,
// ends of documents, words added after training.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/regex.h"

namespace cadre::data {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // takes the blanks on its left
  bool rstrip = false;       // and on its right
  bool normalized = true;    // looked for in normalised text, in its normalised form
  bool special = false;      // a control token: never text when decoded
};

// Finds the longest token at the leftmost place, again and again.
class AddedTokens {
 public:
  struct Part {
    Span span;
    int32_t id;  // -1: text
  };

  // `form`: what is looked for, in the order of `tokens`. Throws Error(kData) when two look alike.
  AddedTokens(std::vector<AddedToken> tokens, const std::vector<std::string>& forms,
              const std::string& where);

  bool empty() const { return tokens_.empty(); }
  // Appends the parts of the text in order. With `specials_as_text`, a special token is text like any other.
  void split(std::string_view text, bool specials_as_text, std::vector<Part>& parts) const;

 private:
  struct Node {
    int32_t first_child = -1, sibling = -1;
    int32_t token = -1;
    char byte = 0;
  };
  int32_t child(int32_t node, char byte) const;
  // The longest token that starts at `at`: its index and its end.
  int32_t longest_at(std::string_view text, size_t at, size_t& end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<int32_t> roots_;  // (256) node below the root, by byte
};

}  // namespace cadre::data
