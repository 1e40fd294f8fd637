// What launching code of the CUDA entries shares.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "parallel/device/bf16.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/queue.h"

namespace cadre::moe::cuda {

cudaStream_t stream_of(device::Queue& queue);
// Device memory of the queue, of undefined content, until the next call.
std::byte* scratch_of(device::Queue& queue, size_t bytes);
// Counters of GemmParams::claims for products on this stream, two, 0 between kernels; null unless let_others_run was called
// for a queue with this stream.
int32_t* tile_claims(cudaStream_t stream);
// From now on other kernels hold multiprocessors while this queue works: collectives.
void let_others_run(device::Queue& queue);
int multiprocessors();     // of the current device
int compute_capability();  // of the current device, 10 major + minor
// Throws Error(kUsage) when there are more experts than the kernels keep in shared memory.
void check_experts(int64_t experts);

// The type that device code uses for a storage type.
template <class T>
struct NativeOf {
  using type = T;
};
template <>
struct NativeOf<device::bf16> {
  using type = __nv_bfloat16;
};
template <class T>
using native_t = typename NativeOf<T>::type;
template <class T>
const native_t<T>* native(const T* p) {
  return reinterpret_cast<const native_t<T>*>(p);
}
template <class T>
native_t<T>* native(T* p) {
  return reinterpret_cast<native_t<T>*>(p);
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return unsigned(std::max<int64_t>(1, (items + per_block - 1) / per_block));
}

}  // namespace cadre::moe::cuda
