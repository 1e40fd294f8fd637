#include "trainer/interop/float_format.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

#include "parallel/base/errors.h"

namespace cadre::interop {
namespace {

struct FormatRow {
  FloatFormat format;
  const char* tag;
  const char* name;
  int64_t bytes;
};
constexpr FormatRow kFormats[] = {{FloatFormat::kFloat32, "F32", "float32", 4},
                                  {FloatFormat::kBfloat16, "BF16", "bfloat16", 2},
                                  {FloatFormat::kFloat16, "F16", "float16", 2}};

constexpr uint32_t kInfinity = 0x7f800000;

float from_half(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | kInfinity | fraction << 13);
  if (exponent == 0) return std::copysign(std::ldexp(float(fraction), -24), std::bit_cast<float>(sign));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | fraction << 13);
}

// A NaN keeps the upper part of its payload, and stays a NaN when that part is empty.
uint16_t nan_bits(uint32_t magnitude, int dropped, uint32_t infinity) {
  const uint32_t payload = (magnitude & 0x7fffff) >> dropped;
  return uint16_t(infinity | (payload != 0 ? payload : 1));
}

uint16_t to_half(float value) {
  const auto raw = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = raw & 0x7fffffff;
  const auto sign = uint16_t((raw >> 16) & 0x8000);
  if (magnitude > kInfinity) return uint16_t(sign | nan_bits(magnitude, 13, 0x7c00));
  constexpr uint32_t kTooLarge = 0x477ff000;  // 65520, halfway from the largest half to the next power of two
  if (magnitude >= kTooLarge) return uint16_t(sign | 0x7c00);
  constexpr uint32_t kSmallestNormal = 0x38800000;  // 2^-14; halves below it are multiples of 2^-24
  if (magnitude < kSmallestNormal) {
    return uint16_t(sign | uint16_t(std::nearbyint(std::ldexp(std::bit_cast<float>(magnitude), 24))));
  }
  return uint16_t(sign + ((magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13) - (112 << 10));
}

uint16_t to_bfloat(float value) {
  const auto raw = std::bit_cast<uint32_t>(value);
  const auto sign = uint16_t((raw >> 16) & 0x8000);
  if ((raw & 0x7fffffff) > kInfinity) return uint16_t(sign | nan_bits(raw & 0x7fffffff, 16, 0x7f80));
  return uint16_t((raw + 0x7fff + ((raw >> 16) & 1)) >> 16);
}

template <class Convert>
int64_t encode_16(std::span<const float> values, std::span<std::byte> out, uint16_t infinity,
                  const Convert& convert) {
  int64_t overflow = -1;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = convert(values[i]);
    std::memcpy(out.data() + 2 * i, &bits, 2);
    if (overflow < 0 && (bits & 0x7fff) == infinity && std::isfinite(values[i])) overflow = int64_t(i);
  }
  return overflow;
}

const FormatRow& row_of(FloatFormat format) {
  return kFormats[int(format)];
}

}  // namespace

int64_t size_of(FloatFormat format) {
  return row_of(format).bytes;
}
const char* tag_of(FloatFormat format) {
  return row_of(format).tag;
}
const char* name_of(FloatFormat format) {
  return row_of(format).name;
}

FloatFormat format_from_tag(const std::string& tag, const std::string& where) {
  for (const FormatRow& row : kFormats) {
    if (tag == row.tag) return row.format;
  }
  fail(ExitCode::kData, "{}: found numbers of type '{}', expected F32, BF16 or F16; convert them first",
       where, tag);
}
FloatFormat format_from_name(const std::string& name, const std::string& where) {
  for (const FormatRow& row : kFormats) {
    if (name == row.name) return row.format;
  }
  fail(ExitCode::kData, "{}: found numbers of type '{}', expected float32, bfloat16 or float16", where, name);
}

void decode(FloatFormat format, std::span<const std::byte> bytes, std::span<float> out) {
  assert(int64_t(bytes.size()) == int64_t(out.size()) * size_of(format));
  if (format == FloatFormat::kFloat32) {
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    out[i] = format == FloatFormat::kFloat16 ? from_half(bits) : std::bit_cast<float>(uint32_t(bits) << 16);
  }
}

int64_t encode(FloatFormat format, std::span<const float> values, std::span<std::byte> out) {
  assert(int64_t(out.size()) == int64_t(values.size()) * size_of(format));
  if (format == FloatFormat::kFloat16) return encode_16(values, out, 0x7c00, to_half);
  if (format == FloatFormat::kBfloat16) return encode_16(values, out, 0x7f80, to_bfloat);
  std::memcpy(out.data(), values.data(), out.size());
  return -1;
}

}  // namespace cadre::interop
