// Attention of single queries over pages for heads of whole units of 16 bytes, 8 lanes a key: so that a warp has four keys
// at a time in each instruction, and 16 on their way from memory. Of 64 to 512 bytes a head.
#pragma once

#include <cfloat>
#include <cmath>

#include "parallel/device/cuda/vec.cuh"
#include "parallel/device/kernels.h"

namespace cadre::device::cuda {

// As KvPages, for device code. U may be const.
template <class U>
struct Pages {
  U *k, *v;
  int64_t page_stride;
  int page_size, kv_heads, head_dim;
  __device__ int64_t at(int page, int row) const {
    return int64_t(page) * page_stride + int64_t(row) * kv_heads * head_dim;
  }
};
template <class U, class T>
Pages<U> device_pages(const KvPages<T>& p) {
  return {reinterpret_cast<U*>(p.k), reinterpret_cast<U*>(p.v), p.page_stride,
          int(p.page_size),          int(p.num_kv_heads),       int(p.head_dim)};
}

inline constexpr int kPagedWarps = 4;
inline constexpr float kLog2E = 1.4426950408889634f;

// Merges what the warps of a block have of one query: outputs and sums relative to 2^largest, in order.
template <int kWidth, class T>
__device__ void merge_warps(const float (&outs)[kPagedWarps][kWidth], const float (&largests)[kPagedWarps],
                            const float (&sums)[kPagedWarps], int h, bool any, T* out) {
  __syncthreads();
  float largest = -FLT_MAX, sum = 0;
  for (int w = 0; w < kPagedWarps; ++w) largest = fmaxf(largest, largests[w]);
  for (int w = 0; w < kPagedWarps; ++w) sum += sums[w] * exp2f(largests[w] - largest);
  for (int d = int(threadIdx.y * 32 + threadIdx.x); d < h; d += 32 * kPagedWarps) {
    float total = 0;
    for (int w = 0; w < kPagedWarps; ++w) total += outs[w][d] * exp2f(largests[w] - largest);
    out[d] = from_float<T>(any ? total / sum : 0.0f);
  }
}

// kUnits: of a head that a lane holds; unit c of the 8 lanes, then c + 8, ...
template <class T, int kUnits>
__global__ void __launch_bounds__(32 * kPagedWarps)
    paged_units_kernel(const T* q, Pages<const T> pages, int pages_per_row, const int32_t* page_table,
                       const int32_t* owner, const int32_t* length, float scale, T* __restrict__ out) {
  constexpr int N = kVec<T>, kLanes = 8, kGroups = 32 / kLanes, kHead = kLanes * kUnits * N;
  constexpr int kAhead = kUnits <= 2 ? 4 : 2, kStep = kGroups * kAhead;  // keys of a warp at a time
  __shared__ float shared_out[kPagedWarps][kHead], shared_largest[kPagedWarps], shared_sum[kPagedWarps];
  const int64_t row = blockIdx.x;
  const int head = int(blockIdx.y), heads = int(gridDim.y), count = length[row];
  const int warp = int(threadIdx.y), lane = int(threadIdx.x), group = lane / kLanes, c = lane % kLanes;
  const int kv_head = head / (heads / pages.kv_heads);
  const int32_t* table = page_table + int64_t(count > 0 ? owner[row] : 0) * pages_per_row;
  const auto place = [&](int t) {
    return pages.at(table[t / pages.page_size], t % pages.page_size) + kv_head * kHead;
  };
  // What the host gives is of no kernel before: while that ends, a warp's first keys and values come to the cache, of which
  // it writes the newest at most.
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int t = warp * kStep + j * kGroups + group;
    if (t >= count || c >= kUnits) continue;
    prefetch(pages.k + place(t) + c * kLanes * N);
    prefetch(pages.v + place(t) + c * kLanes * N);
  }
  wait_for_kernel_before();
  float query[kUnits][N], total[kUnits][N] = {}, largest = -FLT_MAX, sum = 0;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    load<N>(q + (row * heads + head) * kHead + (u * kLanes + c) * N, query[u]);
#pragma unroll
    for (int i = 0; i < N; ++i) query[u][i] *= scale * kLog2E;
  }
  for (int begin = warp * kStep; begin < count; begin += kPagedWarps * kStep) {
    uint4 key[kAhead][kUnits], value[kAhead][kUnits];
    float score[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int t =
          min(begin + j * kGroups + group, count - 1);  // the last one again where there is no other
      const int64_t at = place(t) + c * N;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        key[j][u] = *reinterpret_cast<const uint4*>(pages.k + at + u * kLanes * N);
        value[j][u] = *reinterpret_cast<const uint4*>(pages.v + at + u * kLanes * N);
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      score[j] = 0;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        float k[N];
        unpack<T>(key[j][u], k);
#pragma unroll
        for (int i = 0; i < N; ++i) score[j] = fmaf(query[u][i], k[i], score[j]);
      }
    }
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) score[j] += __shfl_xor_sync(0xffffffffu, score[j], offset);
    }
    float now = largest;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (begin + j * kGroups + group >= count) score[j] = -INFINITY;
      now = fmaxf(now, score[j]);
    }
    const float old = exp2f(largest - now);
    largest = now;
    sum *= old;
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int i = 0; i < N; ++i) total[u][i] *= old;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const float weight = exp2f(score[j] - now);
      sum += weight;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        float v[N];
        unpack<T>(value[j][u], v);
#pragma unroll
        for (int i = 0; i < N; ++i) total[u][i] = fmaf(weight, v[i], total[u][i]);
      }
    }
  }
#pragma unroll
  for (int offset = kLanes; offset < 32; offset *= 2) {  // the groups of a warp
    const float now = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    const float own = exp2f(largest - now);
    largest = now;
    sum *= own;
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        total[u][i] *= own;
        total[u][i] += __shfl_xor_sync(0xffffffffu, total[u][i], offset);
      }
    }
  }
  if (group == 0) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int i = 0; i < N; ++i) shared_out[warp][(u * kLanes + c) * N + i] = total[u][i];
  }
  if (lane == 0) shared_largest[warp] = largest, shared_sum[warp] = sum;
  merge_warps(shared_out, shared_largest, shared_sum, kHead, count > 0, out + (row * heads + head) * kHead);
}

}  // namespace cadre::device::cuda
