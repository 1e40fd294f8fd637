// How often a letter is in a text; the text grows by 5 letters a level.
#include <algorithm>

#include "data/tasks/makers.h"

namespace cadre::data {
namespace {

class Counting final : public Task {
 public:
  int levels() const override { return 6; }

  Problem make(Draws& draws, int level) const override {
    const std::string text = draws.letters(draws.between(5 * level - 2, 5 * level + 2), 2 + level);
    const char letter = char('a' + draws.below(2 + level));
    const auto count = std::count(text.begin(), text.end(), letter);
    return {std::string("How many times is the letter ") + letter + " in " + text + "?",
            std::to_string(count), 0};
  }
};

}  // namespace

std::unique_ptr<Task> make_counting() {
  return std::make_unique<Counting>();
}

}  // namespace cadre::data
