// Pieces of device code that the kernels share: conversions, 16-byte loads and stores, reductions over a warp
// or a block, launches behind the kernel before, and the launch of a function over n elements.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "parallel/device/bf16.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/kernel_state.h"
#include "parallel/device/cuda/launch_behind.cuh"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/view.h"

namespace cadre::device::cuda {

template <class T>
using native_t =
    std::conditional_t<std::is_same_v<std::remove_const_t<T>, bf16>,
                       std::conditional_t<std::is_const_v<T>, const __nv_bfloat16, __nv_bfloat16>, T>;
// The data of a view as device code reads it.
template <class T, int N>
native_t<T>* raw(View<T, N> view) {
  return reinterpret_cast<native_t<T>*>(view.data());
}
inline cudaStream_t stream(Queue& queue) {
  return static_cast<CudaQueue&>(queue).stream();
}
// Of at least n elements, for the time of one call.
template <class T>
T* scratch(Queue& queue, int64_t n) {
  return reinterpret_cast<T*>(static_cast<CudaQueue&>(queue).state().scratch.take(size_t(n) * sizeof(T)));
}
inline void launched(std::source_location at = std::source_location::current()) {
  check(cudaGetLastError(), at);
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Elements of T in 16 bytes.
template <class T>
inline constexpr int kVec = 16 / sizeof(T);

inline bool aligned16(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}
template <class... P>
bool all_aligned16(const P*... p) {
  return (aligned16(p) && ...);
}

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return __float2bfloat16_rn(x);
  }
}

// The elements of T in 16 bytes. By value: read through a reference, each element would be a load of its own.
template <class T, int N>
__device__ inline void unpack(const uint4 bits, float (&out)[N]) {
  static_assert(N == kVec<T>);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (N == 4) {
      out[i] = __uint_as_float(words[i]);
    } else {  // a bf16 is the upper half of a float
      out[2 * i] = __uint_as_float(words[i] << 16);
      out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
}

// N consecutive elements; 16 bytes at once when N is kVec<T>.
template <int N, class T>
__device__ inline void load(const T* p, float (&out)[N]) {
  if constexpr (N == kVec<T>) {
    const uint4 bits = *reinterpret_cast<const uint4*>(p);
    unpack<T>(bits, out);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = to_float(p[i]);
  }
}
template <int N, class T>
__device__ inline void store(T* p, const float (&in)[N]) {
  if constexpr (N == kVec<T>) {
    uint4 bits;
    T* e = reinterpret_cast<T*>(&bits);
#pragma unroll
    for (int i = 0; i < N; ++i) e[i] = from_float<T>(in[i]);
    *reinterpret_cast<uint4*>(p) = bits;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = from_float<T>(in[i]);
  }
}

// N elements by accesses of 16 bytes, also where N of them take several.
template <int N, class T>
__device__ inline void load_any(const T* p, float (&out)[N]) {
  if constexpr (N > kVec<T>) {
    load_any(p, reinterpret_cast<float(&)[N / 2]>(out));
    load_any(p + N / 2, reinterpret_cast<float(&)[N / 2]>(out[N / 2]));
  } else {
    load<N>(p, out);
  }
}
template <int N, class T>
__device__ inline void store_any(T* p, const float (&in)[N]) {
  if constexpr (N > kVec<T>) {
    store_any(p, reinterpret_cast<const float(&)[N / 2]>(in));
    store_any(p + N / 2, reinterpret_cast<const float(&)[N / 2]>(in[N / 2]));
  } else {
    store<N>(p, in);
  }
}

// Over kWidth neighbouring lanes, all of which get the result. Every lane of the warp must take part.
template <int kWidth = 32>
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
// Over a block of kThreads, all of which get the result; shared: kThreads / 32 floats, free after the call's
// own barriers.
template <int kThreads>
__device__ inline float block_sum(float x, float* shared) {
  x = warp_sum(x);
  __syncthreads();  // the last call's results have been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) sum += shared[i];
  return sum;
}

inline constexpr int kMapThreads = 256;

template <int N, class Body>
__global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t n, Body body) {
  wait_for_kernel_before();
  int64_t i = (int64_t(blockIdx.x) * kMapThreads + threadIdx.x) * N;
  if (i + N <= n) {
    body.template run<N>(i);
  } else {
    for (; i < n; ++i) body.template run<1>(i);
  }
}

// body.run<N>(i) handles elements i .. i + N - 1. vector: all of the body's pointers are aligned to 16 bytes.
template <int N, class Body>
void map(Queue& queue, int64_t n, bool vector, const Body& body) {
  if (n == 0) return;
  const auto kernel = vector ? map_kernel<N, Body> : map_kernel<1, Body>;
  const int64_t a_block = int64_t(kMapThreads) * (vector ? N : 1);
  launch_behind(stream(queue), kernel, unsigned(ceil_div(n, a_block)), kMapThreads, n, body);
}

}  // namespace cadre::device::cuda
