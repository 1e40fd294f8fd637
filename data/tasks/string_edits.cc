// Edits of a text, one after the other: one edit at levels 1 to 3, two from level 4 on; the text grows by 3 letters a level.
#include <algorithm>

#include "data/tasks/makers.h"

namespace cadre::data {
namespace {

// Says the edit and does it.
std::string edit(Draws& draws, std::string& text) {
  const char letter = text[size_t(draws.below(int64_t(text.size())))];
  switch (draws.below(4)) {
    case 0:
      std::reverse(text.begin(), text.end());
      return "reverse it";
    case 1: {
      if (std::all_of(text.begin(), text.end(), [&](char c) { return c == letter; })) break;
      text.erase(std::remove(text.begin(), text.end(), letter), text.end());
      return std::string("remove every ") + letter;
    }
    case 2: {
      const char other = char('a' + draws.below(26));
      std::replace(text.begin(), text.end(), letter, other);
      return std::string("replace every ") + letter + " by " + other;
    }
    default:
      break;
  }
  std::rotate(text.begin(), text.begin() + 1, text.end());
  return "move the first letter to the end";
}

class StringEdits final : public Task {
 public:
  int levels() const override { return 6; }

  Problem make(Draws& draws, int level) const override {
    std::string text = draws.letters(1 + 3 * level, std::min(3 + 2 * level, 26));
    std::string prompt = "Take " + text + ": ";  // before the text changes
    prompt += edit(draws, text);
    if (level >= 4) prompt += ", then " + edit(draws, text);
    return {prompt + ".", text, 0};
  }
};

}  // namespace

std::unique_ptr<Task> make_string_edits() {
  return std::make_unique<StringEdits>();
}

}  // namespace cadre::data
