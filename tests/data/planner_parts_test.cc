// What the planner is made of: permutations, counts from weights, and the order of a batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "data/planner/apportion.h"
#include "data/planner/interleave.h"
#include "data/planner/permutation.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

TEST(Permutation, IsABijectionForEverySizeAndDiffersByKey) {
  for (uint64_t size = 1; size <= 300; ++size) {
    for (uint64_t key = 0; key < 5; ++key) {
      const Permutation p(size, key);
      std::set<uint64_t> seen;
      for (uint64_t i = 0; i < size; ++i) seen.insert(p(i));
      ASSERT_EQ(seen.size(), size) << size << " key " << key;
      ASSERT_LT(*seen.rbegin(), size);
    }
  }
  for (const uint64_t size : {1023ull, 1024ull, 1025ull, 65537ull, 100000ull}) {
    const Permutation p(size, 3), q(size, 4);
    std::vector<bool> seen(size);
    uint64_t fixed = 0, same = 0;
    for (uint64_t i = 0; i < size; ++i) {
      ASSERT_FALSE(seen[p(i)]);
      seen[p(i)] = true;
      fixed += p(i) == i;
      same += p(i) == q(i);
    }
    EXPECT_LT(fixed, 12u);  // 1 expected, Poisson
    EXPECT_LT(same, 12u);
  }
  const Permutation huge((uint64_t(1) << 40) + 12345, 1);
  EXPECT_NE(huge(0), huge(1));
}

TEST(Permutation, SpreadsNeighboursOverTheWholeRange) {
  const uint64_t size = 10000;
  double mean_step = 0;
  const Permutation p(size, 99);
  for (uint64_t i = 0; i + 1 < size; ++i)
    mean_step += std::abs(double(p(i)) - double(p(i + 1))) / double(size - 1);
  EXPECT_NEAR(mean_step / double(size), 1.0 / 3, 0.02);  // of two independent uniform values
}

TEST(Apportion, CountsFollowTheWeightsAndTheErrorStaysBelowOne) {
  const base::Philox random(5);
  for (uint64_t trial = 0; trial < 30; ++trial) {
    const size_t num = 1 + random.bits(trial) % 9;
    std::vector<double> weights;
    double sum = 0;
    for (size_t k = 0; k < num; ++k)
      weights.push_back(std::pow(random.uniform(k, trial + 100), 3)), sum += weights.back();
    for (double& w : weights) w /= sum;
    const auto units = weight_units(weights);
    ASSERT_EQ(std::accumulate(units.begin(), units.end(), int64_t{0}), kWeightUnit);
    const int64_t batch = 1 + int64_t(random.bits(trial, 1) % 40), steps = 2000;
    std::vector<int64_t> error(num, 0), totals(num, 0), room(num, int64_t(1) << 62);
    for (int64_t step = 0; step < steps; ++step) {
      const auto counts = apportion(batch, units, room, error).value();
      ASSERT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), batch);
      ASSERT_EQ(std::accumulate(error.begin(), error.end(), int64_t{0}), 0);
      for (size_t k = 0; k < num; ++k) {
        ASSERT_GE(counts[k], 0);
        ASSERT_LT(std::abs(error[k]), kWeightUnit) << "share " << k << " step " << step;
        totals[k] += counts[k];
      }
    }
    for (size_t k = 0; k < num; ++k) EXPECT_NEAR(double(totals[k]), weights[k] * double(batch * steps), 1.01);
  }
}

TEST(Apportion, MovingWeightsNeverGiveNegativeCountsAndTheErrorStaysBounded) {
  const base::Philox random(6);
  const size_t num = 8;
  std::vector<int64_t> error(num, 0), room(num, int64_t(1) << 62);
  for (uint64_t step = 0; step < 20000; ++step) {
    std::vector<double> weights(num, 0.0);
    // Mostly one-hot jumps: the hardest case for carried errors.
    weights[random.bits(step) % num] = 0.9;
    weights[random.bits(step, 1) % num] += 0.1;
    const auto counts =
        apportion(1 + int64_t(random.bits(step, 2) % 5), weight_units(weights), room, error).value();
    for (size_t k = 0; k < num; ++k) {
      ASSERT_GE(counts[k], 0);
      ASSERT_LE(std::abs(double(error[k])) / double(kWeightUnit), 1 + std::log(double(num)));
    }
    ASSERT_EQ(std::accumulate(error.begin(), error.end(), int64_t{0}), 0);
  }
}

TEST(Apportion, AFullShareGivesItsWeightToTheOthersInProportion) {
  std::vector<int64_t> error = {0, 0, 0};
  const auto units = weight_units({0.5, 0.375, 0.125});
  EXPECT_EQ(apportion(16, units, {2, 100, 100}, error).value(),
            (std::vector<int64_t>{2, 11, 3}));  // 14 as 3 : 1
  EXPECT_EQ(std::accumulate(error.begin(), error.end(), int64_t{0}), 0);
  error = {0, 0, 0};
  EXPECT_EQ(apportion(16, units, {0, 4, 100}, error).value(), (std::vector<int64_t>{0, 4, 12}));
  error = {5, -5, 0};
  EXPECT_FALSE(apportion(16, units, {1, 2, 12}, error).has_value());
  EXPECT_FALSE(apportion(1, weight_units({1, 0, 0}), {0, 9, 9}, error).has_value());  // no weight is left
  EXPECT_EQ(error, (std::vector<int64_t>{5, -5, 0}));
}

TEST(Interleave, RunsAndStridesOfABatchAreDiverse) {
  const std::vector<int64_t> counts = {64, 64, 32, 32};
  for (const int ranks : {2, 3, 4, 8}) {
    double squares = 0;
    std::vector<double> mean(size_t(ranks), 0);
    for (uint64_t batch = 0; batch < 200; ++batch) {
      const std::vector<int> order = interleave(counts, batch);
      ASSERT_EQ(order.size(), 192u);
      for (int k = 0; k < 4; ++k) ASSERT_EQ(std::count(order.begin(), order.end(), k), counts[size_t(k)]);
      for (size_t rank = 0; rank < size_t(ranks); ++rank) {
        double share = 0;
        for (size_t i = rank; i < order.size(); i += size_t(ranks)) share += order[i] == 0;
        share *= ranks / 64.0;
        squares += (share - 1) * (share - 1) / (200 * ranks);
        mean[rank] += share / 200;
      }
      for (auto run = order.begin(); run != order.end();
           run += 24) {  // a micro-batch has 8 of stream 0 on average
        EXPECT_NEAR(double(std::count(run, run + 24, 0)), 8, 4);
      }
    }
    // No worse than dealing at random (the deviation of a binomial share), and no rank has a leaning.
    EXPECT_LT(std::sqrt(squares), 1.1 * std::sqrt(2.0 * ranks / 192)) << ranks;
    for (const double m : mean) EXPECT_NEAR(m, 1, 0.1) << ranks;
  }
  EXPECT_NE(interleave({8, 8}, 1), interleave({8, 8}, 2));
}

}  // namespace
}  // namespace cadre::data
