// Logic grids: n people, each with one pet and, from level 3 on, one drink; clues that leave exactly one solution, none of
// which can be spared; and a question about one thing. Solutions are counted by trying all.
#include <algorithm>
#include <array>
#include <numeric>

#include "data/tasks/makers.h"

namespace cadre::data {
namespace {

constexpr const char* kPeople[] = {"Ann", "Bob", "Cid", "Dot", "Eve"};
constexpr const char* kThings[2][5] = {{"cat", "dog", "fish", "bird", "pony"},
                                       {"tea", "milk", "water", "juice", "cocoa"}};
constexpr int kLevels[][2] = {{3, 1}, {4, 1}, {3, 2}, {4, 2}};  // people, kinds of things

using Grid = std::array<std::vector<int>, 2>;  // owner of each thing, by kind

// Thing `thing` of `kind` belongs to `person`, or to the owner of thing `person` of the other kind (linked); or not.
struct Clue {
  bool linked, negative;
  int kind, thing, person;

  bool holds(const Grid& g) const {
    const int owner = g[size_t(kind)][size_t(thing)];
    return (owner == (linked ? g[size_t(1 - kind)][size_t(person)] : person)) != negative;
  }
  std::string text() const {
    const std::string who =
        linked ? fmt::format("The owner of the {}", kThings[1 - kind][person]) : kPeople[person];
    return fmt::format("{} {} the {}.", who, negative ? "does not have" : "has", kThings[kind][thing]);
  }
};

int solutions(const std::vector<Clue>& clues, int people, int kinds) {
  Grid g;
  for (int k = 0; k < 2; ++k) {
    g[size_t(k)].resize(size_t(people));
    std::iota(g[size_t(k)].begin(), g[size_t(k)].end(), 0);
  }
  int found = 0;
  do {
    do {
      found += std::all_of(clues.begin(), clues.end(), [&](const Clue& c) { return c.holds(g); });
    } while (kinds == 2 && std::next_permutation(g[1].begin(), g[1].end()));
  } while (std::next_permutation(g[0].begin(), g[0].end()));
  return found;
}

Clue true_clue(Draws& draws, const Grid& truth, int people, int kinds) {
  for (;;) {
    Clue clue{.linked = kinds == 2 && draws.below(2) == 1,
              .negative = draws.below(3) > 0,
              .kind = int(draws.below(kinds)),
              .thing = int(draws.below(people)),
              .person = int(draws.below(people))};
    if (clue.holds(truth)) return clue;
  }
}

class LogicGrids final : public Task {
 public:
  int levels() const override { return int(std::size(kLevels)); }

  Problem make(Draws& draws, int level) const override {
    const int people = kLevels[level - 1][0], kinds = kLevels[level - 1][1];
    const Grid truth = {draws.permutation(people), draws.permutation(people)};
    std::vector<Clue> clues;
    for (int left = 0; left != 1;) {
      clues.push_back(true_clue(draws, truth, people, kinds));
      left = solutions(clues, people, kinds);
    }
    for (size_t i = clues.size(); i-- > 0;) {
      std::vector<Clue> fewer = clues;
      fewer.erase(fewer.begin() + int64_t(i));
      if (solutions(fewer, people, kinds) == 1) clues = std::move(fewer);
    }
    std::string prompt;
    for (int k = 0; k < kinds; ++k) prompt += sentence(people, k);
    for (const Clue& clue : clues) prompt += clue.text() + " ";
    const size_t kind = size_t(draws.below(kinds)), thing = size_t(draws.below(people));
    return {prompt + fmt::format("Who has the {}?", kThings[kind][thing]), kPeople[truth[kind][thing]], 0};
  }

 private:
  static std::string sentence(int people, int kind) {
    std::string who = kPeople[0], what = std::string("the ") + kThings[kind][0];
    for (int i = 1; i < people; ++i) {
      const char* glue = i + 1 == people ? " and " : ", ";
      who += std::string(glue) + kPeople[i];
      what += std::string(glue) + "the " + kThings[kind][i];
    }
    return fmt::format("{} have {}, one each. ", who, what);
  }
};

}  // namespace

std::unique_ptr<Task> make_logic_grids() {
  return std::make_unique<LogicGrids>();
}

}  // namespace cadre::data
