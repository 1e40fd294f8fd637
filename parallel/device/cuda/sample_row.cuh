// What drawing a token from a row of logits is made of, for blocks of kThreads. Weights and their sums are in double, as on
// the CPU, so that both draw the same token from the same logits. Weights are summed by stretch of kStretch ids, a warp
// each, then over the stretches; the draw walks inside the stretch where it falls. A cut (top-k, top-p) is found by
// bisection over the order of floats, and among equal logits over ids, each step one pass over the row.
#pragma once

#include <cfloat>

#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda::sampling {

inline constexpr int kThreads = 512, kWarps = kThreads / 32, kStretch = 256, kMostStretches = 4096;
inline constexpr int kAnyId = 0x7fffffff;

// Unsigned integers in the order of floats; both zeros are one number.
__device__ inline uint32_t ordered(float x) {
  const uint32_t bits = x == 0 ? 0u : __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Tokens above `key` are kept, and of those that equal it the ids up to `id`.
struct Cut {
  uint32_t key = 0;
  int id = kAnyId;
  __device__ bool keeps(float x, int i) const {
    const uint32_t k = ordered(x);
    return k > key || (k == key && i <= id);
  }
};

// The same for all threads of the block.
__device__ inline double sum_of_block(double x) {
  __shared__ double shared[kWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  __syncthreads();  // an earlier call's results have been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
  for (int i = 1; i < kWarps; ++i) x += shared[i];
  return x;
}

template <class T>
struct Row {
  const T* logits;
  int width;
  float largest;
  double temperature;
  __device__ float at(int i) const { return to_float(logits[i]); }
  __device__ double exponent(float x) const {
    const double d = double(x) - double(largest);
    return temperature == 1 ? d : d / temperature;  // a division costs as much as the exponential
  }
  __device__ double weight(float x) const { return exp(exponent(x)); }
  // Sum of value(logit, id) over the row.
  template <class F>
  __device__ double sum(const F& value) const {
    double own = 0;
    for (int i = int(threadIdx.x); i < width; i += kThreads) own += value(at(i), i);
    return sum_of_block(own);
  }
};

// The largest x of `bits` bits for which enough(x) holds, given that it holds from 0 up to there; 0 if it never does.
template <class F>
__device__ uint32_t last_true(int bits, const F& enough) {
  uint32_t x = 0;
  for (int bit = bits - 1; bit >= 0; --bit) {
    if (enough(x | (1u << bit))) x |= 1u << bit;
  }
  return x;
}

// The fewest likeliest tokens of `within` whose value reaches `wanted`, which is above 0. Sums of fewer of the terms are
// never larger, since they are made in one order: so the bisection is sound whatever the rounding.
template <class T, class F>
__device__ Cut cut_at(const Row<T>& row, const Cut& within, double wanted, const F& value) {
  Cut cut;
  cut.key = last_true(32, [&](uint32_t key) {
    return row.sum([&](float x, int i) {
      return within.keeps(x, i) && ordered(x) >= key ? value(x) : 0.0;
    }) >= wanted;
  });
  const auto reached = [&](int id) {
    return row.sum([&](float x, int i) {
      const uint32_t k = ordered(x);
      return within.keeps(x, i) && (k > cut.key || (k == cut.key && i <= id)) ? value(x) : 0.0;
    }) >= wanted;
  };
  // Of equal ones the lower ids. Most often there is only one.
  const double equal = row.sum([&](float x, int) { return ordered(x) == cut.key ? 1.0 : 0.0; });
  if (equal <= 1 || reached(0)) {
    cut.id = equal <= 1 ? kAnyId : 0;
    return cut;
  }
  const int bits = 32 - __clz(row.width);
  cut.id = 1 + int(last_true(bits, [&](uint32_t id) { return int(id) < row.width && !reached(int(id)); }));
  return cut;
}

// The largest logit and the lowest id that has it; the same for all threads.
template <class T>
__device__ int find_largest(Row<T>& row) {
  __shared__ float warp_largest[kWarps];
  __shared__ int warp_id[kWarps];
  int first = kAnyId;
  row.largest = -FLT_MAX;
  const auto take = [&](float x, int id) {
    if (x > row.largest || (x == row.largest && id < first)) row.largest = x, first = id;
  };
#pragma unroll 8
  for (int i = int(threadIdx.x); i < row.width; i += kThreads) take(row.at(i), i);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, row.largest, offset);
    const int id = __shfl_xor_sync(0xffffffffu, first, offset);
    take(other, id);
  }
  if (threadIdx.x % 32 == 0) {
    warp_largest[threadIdx.x / 32] = row.largest;
    warp_id[threadIdx.x / 32] = first;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) take(warp_largest[w], warp_id[w]);
  return first < row.width ? first : 0;  // 0 where there is nothing but not-a-number
}

__device__ inline int stretches_of(int width) {
  return (width + kStretch - 1) / kStretch;
}
template <class T>
__device__ double kept_weight(const Row<T>& row, const Cut& cut, float x, int i) {
  return cut.keeps(x, i) ? row.weight(x) : 0.0;
}

// Of the kept weights of one stretch; by a warp, for its first lane.
template <class T>
__device__ double sum_of_stretch(const Row<T>& row, const Cut& cut, int s) {
  constexpr int kEach = kStretch / 32;
  const int begin = s * kStretch + int(threadIdx.x) % 32;
  float x[kEach];  // all are on their way before the first is used
  double own = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) x[j] = begin + 32 * j < row.width ? row.at(begin + 32 * j) : 0.0f;
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (begin + 32 * j < row.width) own += kept_weight(row, cut, x[j], begin + 32 * j);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) own += __shfl_xor_sync(0xffffffffu, own, offset);
  return own;
}

// By the block that knows the sums of all stretches. first: taken where rounding leaves nothing.
template <class T>
__device__ void draw(const Row<T>& row, const Cut& cut, int first, const double* stretch_sum, double uniform,
                     int32_t* token, float* logp) {
  __shared__ double weights[kStretch], left_there;
  __shared__ int stretch;
  const int stretches = stretches_of(row.width);
  double sum = 0;
  if (threadIdx.x == 0) {
#pragma unroll 8
    for (int s = 0; s < stretches; ++s) sum += stretch_sum[s];
    double left = uniform * sum;
    int s = 0;
    while (s + 1 < stretches && left >= stretch_sum[s]) left -= stretch_sum[s++];
    stretch = s;
    left_there = left;
  }
  __syncthreads();
  const int begin = stretch * kStretch, count = min(kStretch, row.width - begin);
  for (int i = int(threadIdx.x); i < count; i += kThreads)
    weights[i] = kept_weight(row, cut, row.at(begin + i), begin + i);
  __syncthreads();
  if (threadIdx.x != 0) return;
  int chosen = first;
  double left = left_there;
  for (int i = 0; i < count; ++i) {
    left -= weights[i];
    if (left >= 0) continue;
    chosen = begin + i;
    break;
  }
  *token = chosen;
  *logp = float(row.exponent(row.at(chosen)) - log(sum));
}

}  // namespace cadre::device::cuda::sampling
