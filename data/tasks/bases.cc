// A number from one base to another: binary to decimal first, then back, then any bases from 2 to 16.
#include <algorithm>

#include "data/tasks/makers.h"

namespace cadre::data {
namespace {

std::string in_base(int64_t value, int64_t base) {
  std::string text;
  do {
    text += "0123456789abcdef"[value % base];
    value /= base;
  } while (value > 0);
  std::reverse(text.begin(), text.end());
  return text;
}

class Bases final : public Task {
 public:
  int levels() const override { return 5; }

  Problem make(Draws& draws, int level) const override {
    constexpr int64_t kLargest[] = {31, 63, 255, 999, 99999};
    const int64_t value = draws.between(2, kLargest[level - 1]);
    int64_t from = 2, to = 10;
    if (level == 2 || level == 3) {
      const bool back = draws.below(2) == 1;
      const int64_t other = level == 2 ? 2 : draws.between(2, 9);
      from = back ? 10 : other;
      to = back ? other : 10;
    } else if (level > 3) {
      from = draws.between(2, 16);
      to = 2 + (from - 2 + draws.between(1, 14)) % 15;  // another one
    }
    return {fmt::format("Write {}, a number in base {}, in base {}.", in_base(value, from), from, to),
            in_base(value, to), 0};
  }
};

}  // namespace

std::unique_ptr<Task> make_bases() {
  return std::make_unique<Bases>();
}

}  // namespace cadre::data
