// Stands for CUDA's header on the host, which it includes: what device code finds without declaring it. Shared memory is
// one copy of each variable, as one block runs at a time.
#pragma once

#include_next <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/device/cuda/emulated/grid.h"
#include "tests/device/cuda/emulated/machine.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ thread_local
#define __CUDA_ARCH_FEAT_SM90_ALL
#define threadIdx cadre::emulated::thread_index()
#define __expf expf
// What the host asks of the runtime. Of multiprocessors there are fewer than most grids have blocks; no attribute that is
// asked needs another number.
#define cudaGetDevice(device) (*(device) = 0, cudaSuccess)
#define cudaDeviceGetAttribute(value, which, device) (*(value) = 5, cudaSuccess)
#define cudaFuncSetAttribute(...) cudaSuccess
#define cudaGetLastError() cudaSuccess
#define cudaMemsetAsync(to, value, bytes, stream) (memset(to, value, bytes), cudaSuccess)
#define cudaMemcpyAsync(to, from, bytes, kind, stream) (memcpy(to, from, bytes), cudaSuccess)

using std::max;
using std::min;

namespace cadre::emulated {

// What lane `from` brings to the instruction at this line.
template <class V>
V shuffle(int line, V v, int from) {
  Deposit own{line, {}};
  static_assert(sizeof(v) <= sizeof(own.words));
  std::memcpy(own.words.data(), &v, sizeof(v));
  std::memcpy(&v, machine->meet(own)[from].words.data(), sizeof(v));
  return v;
}
template <class F>
unsigned reduce(int line, unsigned v, const F& f) {
  const Deposit* const all = machine->meet({line, {v}});
  for (int lane = 0; lane < 32; ++lane) v = f(v, all[lane].words[0]);
  return v;
}
inline int lane() {
  return machine->thread() % 32;
}

}  // namespace cadre::emulated

template <class V>
V __shfl_xor_sync(unsigned, V v, int mask, int line = __builtin_LINE()) {
  return cadre::emulated::shuffle(line, v, cadre::emulated::lane() ^ mask);
}
template <class V>
V __shfl_up_sync(unsigned, V v, int by, int line = __builtin_LINE()) {
  const int own = cadre::emulated::lane();
  return cadre::emulated::shuffle(line, v, own >= by ? own - by : own);
}
template <class V>
V __shfl_sync(unsigned, V v, int from, int line = __builtin_LINE()) {
  return cadre::emulated::shuffle(line, v, from);
}
inline unsigned __reduce_max_sync(unsigned, unsigned v, int line = __builtin_LINE()) {
  return cadre::emulated::reduce(line, v, [](unsigned a, unsigned b) { return max(a, b); });
}
inline unsigned __reduce_min_sync(unsigned, unsigned v, int line = __builtin_LINE()) {
  return cadre::emulated::reduce(line, v, [](unsigned a, unsigned b) { return min(a, b); });
}
inline unsigned __ballot_sync(unsigned, bool v, int line = __builtin_LINE()) {
  const auto* const all = cadre::emulated::machine->meet({line, {v}});
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= all[lane].words[0] << lane;
  return bits;
}
inline void __syncwarp(int line = __builtin_LINE()) {
  cadre::emulated::machine->meet({line, {}});
}
inline void __syncthreads() {
  cadre::emulated::machine->sync_block();
}

inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t __float_as_uint(float v) {
  return std::bit_cast<uint32_t>(v);
}
inline int __popc(uint32_t v) {
  return std::popcount(v);
}
inline int __ffs(int v) {
  return v == 0 ? 0 : std::countr_zero(uint32_t(v)) + 1;
}
inline int __clz(int v) {
  return std::countl_zero(uint32_t(v));
}
inline float rsqrtf(float v) {
  return 1 / std::sqrt(v);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
template <class V>
V __ldcg(const V* p) {
  return *p;
}
template <class V>
V atomicAdd(V* to, V add) {
  const V old = *to;
  *to += add;
  return old;
}
inline uint32_t atomicOr(uint32_t* to, uint32_t bits) {
  const uint32_t old = *to;
  *to |= bits;
  return old;
}
