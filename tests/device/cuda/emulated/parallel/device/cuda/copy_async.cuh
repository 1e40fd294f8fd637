// Stands for parallel/device/cuda/copy_async.cuh on the host: copies are done at once.
#pragma once

#include <cuda_runtime.h>

namespace cadre::device::cuda {

inline void copy_async(uint4* to, const void* from) {
  std::memcpy(to, from, sizeof(*to));
}
inline void end_copy_group() {}
template <int kLeft>
inline void wait_for_copies() {}
inline uint4 read_copied(const uint4* from) {
  return *from;
}

}  // namespace cadre::device::cuda
