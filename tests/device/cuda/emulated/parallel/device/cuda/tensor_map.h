// Stands for parallel/device/cuda/tensor_map.h on the host: a map that hopper_ptx.h here reads.
#pragma once

#include "parallel/device/bf16.h"
#include "parallel/device/cuda/hopper_ptx.h"

namespace cadre::device::cuda {

inline CUtensorMap tensor_map(const bf16* data, int64_t z, int64_t y, int64_t x, int box_y) {
  const ptx::TensorMap m{reinterpret_cast<const uint16_t*>(data), z, y, x, box_y};
  CUtensorMap map;
  static_assert(sizeof(m) <= sizeof(map));
  std::memcpy(&map, &m, sizeof(m));
  return map;
}

}  // namespace cadre::device::cuda
