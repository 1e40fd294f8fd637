#include "trainer/interop/float_format.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"

namespace cadre::interop {
namespace {

uint16_t encode_one(FloatFormat format, float value, int64_t* overflow = nullptr) {
  std::byte bytes[2];
  const int64_t place = encode(format, {&value, 1}, bytes);
  if (overflow != nullptr) *overflow = place;
  uint16_t bits = 0;
  std::memcpy(&bits, bytes, 2);
  return bits;
}
float decode_one(FloatFormat format, uint16_t bits) {
  float value = 0;
  decode(format, std::as_bytes(std::span(&bits, 1)), {&value, 1});
  return value;
}
// The value of a 16-bit format by its definition: sign, exponent of `exponent_bits`, fraction.
double by_definition(uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1),
            fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

TEST(FloatFormat, EveryPatternComesBackAndMeansWhatItShould) {
  for (const auto& [format, exponent_bits] :
       {std::pair{FloatFormat::kFloat16, 5}, {FloatFormat::kBfloat16, 8}}) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const float value = decode_one(format, uint16_t(bits));
      ASSERT_EQ(encode_one(format, value), bits) << name_of(format);
      const uint32_t all_ones = (1u << exponent_bits) - 1;
      if (((bits >> (15 - exponent_bits)) & all_ones) != all_ones) {
        ASSERT_EQ(double(value), by_definition(uint16_t(bits), exponent_bits))
            << name_of(format) << " " << bits;
      } else {
        ASSERT_FALSE(std::isfinite(value));
      }
    }
  }
}

// Between two neighbours the nearer one is taken, and in the middle the even one.
TEST(FloatFormat, RoundsToNearestEven) {
  for (const FloatFormat format : {FloatFormat::kFloat16, FloatFormat::kBfloat16}) {
    const uint32_t largest = format == FloatFormat::kFloat16 ? 0x7bff : 0x7f7f;
    for (uint32_t bits = 0; bits < largest; ++bits) {
      const double low = decode_one(format, uint16_t(bits)), high = decode_one(format, uint16_t(bits + 1));
      const auto middle = float((low + high) / 2);
      if (double(middle) == (low + high) / 2) {
        ASSERT_EQ(encode_one(format, middle), bits % 2 == 0 ? bits : bits + 1);
      }
      ASSERT_EQ(encode_one(format, std::nextafter(middle, 0.0f)), bits);
      ASSERT_EQ(encode_one(format, std::nextafter(middle, std::numeric_limits<float>::infinity())), bits + 1);
    }
  }
}

TEST(FloatFormat, NamesTheFirstValueThatDoesNotFit) {
  int64_t overflow = 0;
  EXPECT_EQ(encode_one(FloatFormat::kFloat16, 65504, &overflow), 0x7bff);
  EXPECT_EQ(overflow, -1);
  EXPECT_EQ(encode_one(FloatFormat::kFloat16, 65520, &overflow), 0x7c00);
  EXPECT_EQ(overflow, 0);
  EXPECT_EQ(encode_one(FloatFormat::kBfloat16, std::numeric_limits<float>::max(), &overflow), 0x7f80);
  EXPECT_EQ(overflow, 0);
  encode_one(FloatFormat::kFloat16, std::numeric_limits<float>::infinity(), &overflow);
  EXPECT_EQ(overflow, -1) << "infinity was infinity before";
}

TEST(FloatFormat, Float32KeepsItsBits) {
  const std::vector<uint32_t> bits = {0x7f800001, 0xffc01234, 0x80000000, 1};
  std::vector<float> values(bits.size());
  decode(FloatFormat::kFloat32, std::as_bytes(std::span(bits)), values);
  std::vector<std::byte> out(16);
  EXPECT_EQ(encode(FloatFormat::kFloat32, values, out), -1);
  EXPECT_EQ(std::memcmp(out.data(), bits.data(), 16), 0);
}

TEST(FloatFormat, OtherTypesAreRefusedByName) {
  EXPECT_THROW(format_from_tag("F8_E4M3", "file"), Error);
  EXPECT_THROW(format_from_name("int8", "file"), Error);
  EXPECT_EQ(format_from_tag("BF16", ""), FloatFormat::kBfloat16);
  EXPECT_EQ(format_from_name("float16", ""), FloatFormat::kFloat16);
}

}  // namespace
}  // namespace cadre::interop
