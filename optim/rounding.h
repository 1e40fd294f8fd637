// Rounding to bf16 at random on the host, as optim/cuda/adamw.cuh does it on the device.
#pragma once

#include <bit>
#include <cstdint>

#include "parallel/device/bf16.h"

namespace cadre::optim {

// A neighbour of x in bf16, the upper one (in magnitude) with the probability of x's distance from the lower one.
inline device::bf16 round_at_random(float x, uint32_t random) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return device::bf16(x);  // infinities and NaN
  return device::bf16(std::bit_cast<float>((bits + (random & 0xffffu)) & 0xffff0000u));
}

}  // namespace cadre::optim
