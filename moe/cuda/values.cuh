// Small device functions that the CUDA entries share.
#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>

namespace cadre::moe::cuda {

__device__ inline float to_float(float v) {
  return v;
}
__device__ inline float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
template <class T>
__device__ inline T from_float(float v) {
  return T(v);
}

// Sums and maxima over a warp, the same for every lane; the order is fixed.
template <class V>
__device__ inline V warp_sum(V v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
  return v;
}

inline constexpr float kShareEpsilon = 1e-20f;  // see ScoreRule::share

// Not-a-number counts as -infinity, as in the CPU entries.
__device__ inline float ordered(float v) {
  return v == v ? v : -INFINITY;
}

// Rises with the value, above 0; both zeros are one number.
__device__ inline uint32_t rising_key(float v) {
  const uint32_t bits = __float_as_uint(v + 0.f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// 16 bytes of values at a time.
template <class T>
struct Pack {
  static constexpr int kCount = 16 / sizeof(T);
  alignas(16) T v[kCount];
};
template <class T>
__device__ inline Pack<T> load_pack(const T* p) {
  Pack<T> out;
  *reinterpret_cast<uint4*>(out.v) = *reinterpret_cast<const uint4*>(p);
  return out;
}
template <class T>
__device__ inline void store_pack(T* p, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(pack.v);
}

// The group that holds `index`: the last e with offsets[e] <= index.
__device__ inline int group_of(const int64_t* offsets, int groups, int64_t index) {
  int low = 0, high = groups;
  while (high - low > 1) {
    const int mid = (low + high) / 2;
    (offsets[mid] <= index ? low : high) = mid;
  }
  return low;
}

}  // namespace cadre::moe::cuda
