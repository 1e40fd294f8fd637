#include "parallel/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace cadre::base {
namespace {

// Known answers published with the Random123 library for Philox4x32-10.
TEST(Philox, GivesThePublishedKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox(0).words(0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(~0ull).words(~0ull, ~0ull), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox(0x299f31d0a4093822ull).words(0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformAndNormalHaveTheirMoments) {
  const Philox random(mix(1, 2));
  constexpr int kDraws = 200000;
  double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform(uint64_t(i)), z = random.normal(uint64_t(i), 1);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u, squares += u * u;
    normal_sum += z, normal_squares += z * z;
  }
  const double error = 5 / std::sqrt(double(kDraws));  // five standard errors of a unit variance
  EXPECT_NEAR(sum / kDraws, 0.5, error);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, error);
  EXPECT_NEAR(normal_sum / kDraws, 0, error);
  EXPECT_NEAR(normal_squares / kDraws, 1, 2 * error);
}

TEST(Keys, OrderAndNamesMatter) {
  EXPECT_NE(mix(1, 2), mix(2, 1));
  EXPECT_NE(hash_name("layers.0.wq"), hash_name("layers.1.wq"));
  EXPECT_EQ(hash_name(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cull);  // published FNV-1a value
}

}  // namespace
}  // namespace cadre::base
