// bfloat16 in storage: the upper half of a float. Arithmetic happens in float (wide_t); CUDA code reads the
// same bits as __nv_bfloat16.
#pragma once

#include <bit>
#include <cstdint>

#include "parallel/device/view.h"

namespace cadre::device {

struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  // Rounds to nearest, ties to even; a NaN stays one.
  explicit bf16(float value) {
    const auto raw = std::bit_cast<uint32_t>(value);
    const bool nan = (raw & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? uint16_t((raw >> 16) | 0x40u) : uint16_t((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16);
  }
  explicit bf16(double value) : bf16(float(value)) {}
  operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }  // NOLINT: exact
  bool operator==(const bf16&) const = default;
};
static_assert(sizeof(bf16) == 2);

template <>
struct WideOf<bf16> {
  using type = float;
};

}  // namespace cadre::device
