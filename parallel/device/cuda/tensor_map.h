// What the copy engine of sm_90 needs to know about a tensor.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "parallel/device/bf16.h"

namespace cadre::device::cuda {

// (z, y, x) contiguous values, read in boxes of 64 by `box_y` that lie swizzled by 128 bytes in shared memory. What
// lies outside reads as 0. The base and rows must be multiples of 16 bytes. Throws std::runtime_error.
CUtensorMap tensor_map(const bf16* data, int64_t z, int64_t y, int64_t x, int box_y);

}  // namespace cadre::device::cuda
