// Numbers in rising order, two more a level; from level 4 on some are negative.
#include <fmt/format.h>

#include <algorithm>

#include "data/tasks/makers.h"

namespace cadre::data {
namespace {

std::string joined(const std::vector<int64_t>& numbers) {
  return fmt::format("{}", fmt::join(numbers, " "));
}

class Sorting final : public Task {
 public:
  int levels() const override { return 6; }

  Problem make(Draws& draws, int level) const override {
    std::vector<int64_t> numbers;
    const int64_t largest = level < 3 ? 9 : 99, least = level < 4 ? 0 : -largest;
    for (int i = 0; i < 1 + 2 * level; ++i) numbers.push_back(draws.between(least, largest));
    std::string prompt = fmt::format("Sort in rising order: {}.", joined(numbers));
    std::sort(numbers.begin(), numbers.end());
    return {std::move(prompt), joined(numbers), 0};
  }
};

}  // namespace

std::unique_ptr<Task> make_sorting() {
  return std::make_unique<Sorting>();
}

}  // namespace cadre::data
