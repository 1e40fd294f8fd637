// Which expert goes where, on loads made by hand.
#include "moe/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "parallel/base/rng.h"

namespace cadre::moe {
namespace {

using Loads = std::vector<double>;
using Source = std::vector<int>;

Source same(size_t experts) {
  Source source(experts);
  std::iota(source.begin(), source.end(), 0);
  return source;
}
double after(const Loads& loads, int ranks) {
  Loads moved;
  for (const int expert : place_by_load(loads, ranks)) moved.push_back(loads[size_t(expert)]);
  return fullest_rank(moved, ranks);
}

TEST(Placement, KnowsTheFullestRank) {
  EXPECT_DOUBLE_EQ(fullest_rank({1, 2, 3, 4}, 2), 7 / 5.0);
  EXPECT_DOUBLE_EQ(fullest_rank({1, 2, 3, 4}, 4), 4 / 2.5);
  EXPECT_DOUBLE_EQ(fullest_rank({0, 0}, 2), 1);
}

TEST(Placement, SwapsWhatMakesRanksEven) {
  EXPECT_EQ(place_by_load({6, 6, 2, 2}, 2), (Source{2, 1, 0, 3}));
  EXPECT_DOUBLE_EQ(after({6, 6, 2, 2}, 2), 1);
  // Three slots have to turn at once: no single swap helps.
  EXPECT_DOUBLE_EQ(after({10, 10, 10, 0, 0, 0, 0, 0, 0, 10, 10, 10}, 2), 1);
  // Loads of a trained layer; the best choice with these slots.
  EXPECT_NEAR(after({360, 2991, 5849, 1876, 5257, 1876, 8270, 6289}, 2), (16384 + 411) / 16384.0, 1e-12);
}

TEST(Placement, LeavesExpertsWhereMovingDoesNotHelp) {
  EXPECT_EQ(place_by_load({4, 2, 2, 4}, 2), same(4)) << "even already";
  EXPECT_EQ(place_by_load({0, 0, 0, 0}, 2), same(4));
  EXPECT_EQ(place_by_load({9, 1}, 2), same(2)) << "one expert a rank";
  EXPECT_EQ(place_by_load({101, 100, 100, 100}, 2), same(4)) << "less than 2%";
}

// Against all choices of slots to turn, and never worse than before.
TEST(Placement, IsNearTheBestOfAllChoices) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const base::Philox random(seed);
    Loads loads;
    for (uint64_t e = 0; e < 12; ++e)
      loads.push_back(double(random.bits(e) % 1000 * (random.bits(e, 1) % 8)));
    double best = 2;
    for (int turned = 0; turned < 64; ++turned) {
      Loads moved = loads;
      for (int slot = 0; slot < 6; ++slot)
        if (turned >> slot & 1) std::swap(moved[size_t(slot)], moved[size_t(6 + slot)]);
      best = std::min(best, fullest_rank(moved, 2));
    }
    EXPECT_LE(after(loads, 2), best * 1.06) << seed;
    EXPECT_LE(after(loads, 2), fullest_rank(loads, 2)) << seed;
  }
}

TEST(Placement, KeepsEveryExpertInItsSlot) {
  for (const int ranks : {2, 4, 8}) {
    Loads loads;
    for (uint64_t e = 0; e < 32; ++e) loads.push_back(double(base::Philox(uint64_t(ranks)).bits(e) % 1000));
    const Source source = place_by_load(loads, ranks);
    const int slots = 32 / ranks;
    for (int e = 0; e < 32; ++e) EXPECT_EQ(source[size_t(e)] % slots, e % slots);
    Source sorted = source;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, same(32));
    EXPECT_LE(after(loads, ranks), fullest_rank(loads, ranks));
    EXPECT_EQ(place_by_load(loads, ranks), source);
  }
}

}  // namespace
}  // namespace cadre::moe
