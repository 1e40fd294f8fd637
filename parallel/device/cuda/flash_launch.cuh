// The host's side of the tensor-core attention kernels: parameters, segment ranges, launches.
#pragma once

#include <climits>
#include <cmath>

#include "parallel/device/cuda/flash.cuh"
#include "parallel/device/cuda/vec.cuh"
#include "parallel/device/kernels.h"

namespace cadre::device::cuda::flash {

// Lowest and highest segment of each group of tokens: a warp a group.
static __global__ void range_kernel(int groups, int length, const int32_t* __restrict__ segment,
                                    int2* __restrict__ ranges) {
  static_assert(kGroup == 32);
  const int group = int(blockIdx.x), sequence = int(blockIdx.y), token = group * kGroup + int(threadIdx.x);
  const bool live = token < length;
  const int own = live ? segment[int64_t(sequence) * length + token] : 0;
  int low = live ? own : INT_MAX, high = live ? own : INT_MIN;
  for (int offset = 16; offset > 0; offset /= 2) {
    low = min(low, __shfl_xor_sync(0xffffffffu, low, offset));
    high = max(high, __shfl_xor_sync(0xffffffffu, high, offset));
  }
  if (threadIdx.x == 0) ranges[int64_t(sequence) * groups + group] = {low, high};
}

inline Params params(Queue& queue, const AttentionShape& s, View<const bf16, 3> q, View<const bf16, 3> k,
                     View<const bf16, 3> v, View<const int32_t, 1> segment, void* ranges) {
  Params p{};
  p.length = int(s.seq_len);
  p.past = int(s.num_past);
  p.heads = int(s.num_heads);
  p.kv_heads = int(s.num_kv_heads);
  p.scale = float(1 / std::sqrt(double(s.head_dim)));
  p.q = raw(q);
  p.k = raw(k);
  p.v = raw(v);
  if (segment.empty()) return p;
  p.segment = segment.data();
  p.ranges = static_cast<const int2*>(ranges);
  const int groups = int(ceil_div(s.seq_len, kGroup));
  range_kernel<<<dim3(unsigned(groups), unsigned(s.num_sequences)), kGroup, 0, stream(queue)>>>(
      groups, p.length, p.segment, static_cast<int2*>(ranges));
  launched();
  return p;
}

template <class Kernel>
void launch_with_shared(Kernel kernel, dim3 grid, size_t bytes, Queue& queue, const Params& p) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  kernel<<<grid, kThreads, bytes, stream(queue)>>>(p);
  launched();
}

// Launch<head size>::launch(queue, s, p).
template <template <int> class Launch>
void by_head(Queue& queue, const AttentionShape& s, const Params& p) {
  if (s.head_dim == 32) return Launch<32>::launch(queue, s, p);
  if (s.head_dim == 64) return Launch<64>::launch(queue, s, p);
  if (s.head_dim == 96) return Launch<96>::launch(queue, s, p);
  Launch<128>::launch(queue, s, p);
}

}  // namespace cadre::device::cuda::flash
