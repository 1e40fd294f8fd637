// The long-context rules at the points where their formulas have closed values. Golden numbers of whole models
// under each rule are in tests/interop.
#include "trainer/model/rope_scaling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "trainer/model/rope_table.h"

namespace cadre::trainer {
namespace {

constexpr int64_t kHead = 16;

RopeConfig with(RopeScaling scaling) {
  return {.theta = 10000, .scaling = std::move(scaling)};
}
std::vector<double> plain() {
  return rope_frequencies(with({}), kHead, 1).radians;
}

TEST(RopeScaling, LinearDividesEveryFrequency) {
  const auto f = rope_frequencies(with({.name = "linear", .factor = 4}), kHead, 1);
  for (size_t i = 0; i < f.radians.size(); ++i) EXPECT_DOUBLE_EQ(f.radians[i], plain()[i] / 4);
  EXPECT_EQ(f.amplitude, 1);
}

// At L = n x original_context, theta is such that the slowest pair is divided by 1 + factor (n - 1) and the
// fastest is kept.
TEST(RopeScaling, DynamicStretchesTheSlowestPairByTheLength) {
  const RopeConfig c = with({.name = "dynamic", .factor = 2, .original_context = 64});
  for (const int64_t length : {1, 64}) EXPECT_EQ(rope_frequencies(c, kHead, length).radians, plain());
  const auto f = rope_frequencies(c, kHead, 192);
  EXPECT_DOUBLE_EQ(f.radians.front(), 1);
  EXPECT_NEAR(f.radians.back(), plain().back() / 5, 1e-12 * plain().back());
  EXPECT_TRUE(depends_on_length(c));
}

TEST(RopeScaling, Llama3KeepsFastPairsAndStretchesSlowOnes) {
  const RopeScaling s = {
      .name = "llama3", .factor = 8, .original_context = 64, .low_freq_factor = 1, .high_freq_factor = 4};
  const auto f = rope_frequencies(with(s), kHead, 1);
  int kept = 0, blended = 0, stretched = 0;
  for (size_t i = 0; i < f.radians.size(); ++i) {
    const double turns = 64 * plain()[i] / (2 * std::numbers::pi);
    const double ratio = f.radians[i] / plain()[i];
    const double keep = std::clamp((turns - 1) / 3, 0.0, 1.0);
    EXPECT_NEAR(ratio, keep + (1 - keep) / 8, 1e-14) << i;
    ++(turns >= 4 ? kept : turns <= 1 ? stretched : blended);
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(blended, 0);
  EXPECT_GT(stretched, 0);
}

TEST(RopeScaling, YarnBlendsByIndexAndSharpensScores) {
  RopeScaling s = {.name = "yarn", .factor = 4, .original_context = 512};
  // Pair i turns 512 * 10000^(-i / 8) / 2 pi times: 32 at i = 0.81, once at i = 3.82. Ends are rounded outwards.
  const auto f = rope_frequencies(with(s), kHead, 1);
  for (size_t i = 0; i < f.radians.size(); ++i) {
    const double stretch = std::min(1.0, double(i) / 4);
    EXPECT_NEAR(f.radians[i] / plain()[i], 1 - stretch + stretch / 4, 1e-12) << i;
  }
  EXPECT_DOUBLE_EQ(f.amplitude, 0.1 * std::log(4.0) + 1);
  s.attention_factor = 1.5;
  EXPECT_EQ(rope_frequencies(with(s), kHead, 1).amplitude, 1.5);
  s.truncate = false;
  const double low = 8 * std::log(512 / (32 * 2 * std::numbers::pi)) / std::log(10000.0);
  const double high = 8 * std::log(512 / (2 * std::numbers::pi)) / std::log(10000.0);
  EXPECT_NEAR(rope_frequencies(with(s), kHead, 1).radians[2] / plain()[2],
              1 - 0.75 * (2 - low) / (high - low), 1e-12);
}

TEST(RopeScaling, ReadsBackWhatItWrites) {
  for (const RopeScaling& s : {RopeScaling{}, RopeScaling{.name = "linear", .factor = 2.5},
                               RopeScaling{.name = "dynamic", .factor = 2, .original_context = 8},
                               RopeScaling{.name = "llama3",
                               .factor = 8,
                               .original_context = 64,
                               .low_freq_factor = 2,
                               .high_freq_factor = 3},
                               RopeScaling{.name = "yarn",
                               .factor = 4,
                               .original_context = 16,
                               .beta_fast = 8,
                               .beta_slow = 2,
                               .attention_factor = 1.25,
                               .truncate = false}}) {
    const YAML::Node node = rope_node(with(s));
    const RopeConfig read = read_rope(base::Section(node, "test.yaml", "rope"));
    EXPECT_EQ(YAML::Dump(rope_node(read)), YAML::Dump(node));
    EXPECT_EQ(rope_frequencies(read, kHead, 99).radians, rope_frequencies(with(s), kHead, 99).radians)
        << s.name;
  }
}

}  // namespace
}  // namespace cadre::trainer
