// Tokens drawn from rows of logits, a block a row. Weights and their sums are in double, as on the CPU, so that both draw
// the same token from the same logits. Weights are summed by stretch of kStretch ids, a warp each, then over the
// stretches; the draw walks inside the stretch where it falls. A cut (top-k, top-p) is found by bisection over the order
// of floats, and among equal logits over ids, each step one pass over the row.
#include <algorithm>
#include <cfloat>
#include <stdexcept>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kStretch = 256, kMostStretches = 4096;
constexpr int kAnyId = 0x7fffffff;

// Unsigned integers in the order of floats; both zeros are one number.
__device__ uint32_t ordered(float x) {
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
__device__ double sum_of_block(double x) {
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

template <class T>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(int width, const T* __restrict__ logits, double temperature, int top_k, double top_p,
                  const double* __restrict__ uniform, int32_t* __restrict__ token, float* __restrict__ logp) {
  __shared__ double stretch_sum[kMostStretches], weights[kStretch], left_there;
  __shared__ int stretch;
  wait_for_kernel_before();
  Row<T> row{logits + int64_t(blockIdx.x) * width, width, 0, temperature};
  const int first = find_largest(row), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (temperature == 0) {
    if (threadIdx.x == 0) token[blockIdx.x] = first, logp[blockIdx.x] = 0;
    return;
  }
  Cut cut;
  if (top_k > 0 && top_k < width) cut = cut_at(row, cut, double(top_k), [](float) { return 1.0; });
  const auto kept_weight = [&](float x, int i) { return cut.keeps(x, i) ? row.weight(x) : 0.0; };
  if (top_p < 1) {
    const double wanted = fmax(top_p * row.sum(kept_weight), DBL_MIN);
    cut = cut_at(row, cut, wanted, [&](float x) { return row.weight(x); });
  }
  const int stretches = (width + kStretch - 1) / kStretch;
  for (int s = warp; s < stretches; s += kWarps) {
    constexpr int kEach = kStretch / 32;
    const int begin = s * kStretch + lane;
    float x[kEach];  // all are on their way before the first is used
    double own = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) x[j] = begin + 32 * j < width ? row.at(begin + 32 * j) : 0.0f;
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (begin + 32 * j < width) own += kept_weight(x[j], begin + 32 * j);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) own += __shfl_xor_sync(0xffffffffu, own, offset);
    if (lane == 0) stretch_sum[s] = own;
  }
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
#pragma unroll 8
    for (int s = 0; s < stretches; ++s) sum += stretch_sum[s];
    double left = uniform[blockIdx.x] * sum;
    int s = 0;
    while (s + 1 < stretches && left >= stretch_sum[s]) left -= stretch_sum[s++];
    stretch = s;
    left_there = left;
  }
  __syncthreads();
  const int begin = stretch * kStretch, count = min(kStretch, width - begin);
  for (int i = int(threadIdx.x); i < count; i += kThreads)
    weights[i] = kept_weight(row.at(begin + i), begin + i);
  __syncthreads();
  if (threadIdx.x != 0) return;
  int chosen = first;  // where rounding leaves nothing
  double left = left_there;
  for (int i = 0; i < count; ++i) {
    left -= weights[i];
    if (left >= 0) continue;
    chosen = begin + i;
    break;
  }
  token[blockIdx.x] = chosen;
  logp[blockIdx.x] = float(row.exponent(row.at(chosen)) - log(sum));
}

}  // namespace

template <class T>
void CudaKernels<T>::sample(Queue& queue, View<const T, 2> logits, SampleShape shape,
                            View<const double, 1> uniform, View<int32_t, 1> token, View<W, 1> logp) {
  if (logits.size() == 0) return;
  const int64_t width = logits.dim(1);
  if (width > kStretch * kMostStretches)
    throw std::invalid_argument("sampling on CUDA takes at most 2^20 tokens of vocabulary");
  launch_behind(stream(queue), sample_kernel<native_t<T>>, unsigned(logits.dim(0)), kThreads, int(width),
                raw(logits), shape.temperature, int(std::min(shape.top_k, width)), shape.top_p,
                uniform.data(), token.data(), logp.data());
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
