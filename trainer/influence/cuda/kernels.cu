// The CUDA entries of InfluenceKernels. A warp takes a row: each lane adds its elements in float, the lanes are added in
// double. Sums by token are one thread a token, so that their order is fixed.
#include <algorithm>

#include "parallel/device/cuda/vec.cuh"
#include "trainer/influence/cuda/kernels_cuda.h"

namespace cadre::trainer {
namespace cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::all_aligned16;
using device::cuda::ceil_div;
using device::cuda::kVec;
using device::cuda::launched;
using device::cuda::load;
using device::cuda::map;
using device::cuda::native_t;
using device::cuda::raw;
using device::cuda::store;
using device::cuda::stream;

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ double warp_sum(double x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// score[row] = body.factor(row) * sum over i of body.terms(row, i).
template <int N, class Body>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(int64_t rows, int width, Body body, double* __restrict__ score) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;  // the whole warp
  float sum = 0;
  for (int i = int(threadIdx.x % 32) * N; i < width; i += 32 * N) body.template add<N>(row, i, sum);
  const double total = warp_sum(double(sum));
  if (threadIdx.x % 32 == 0) score[row] = total * body.factor(row);
}

// vector: all of the body's rows begin at multiples of 16 bytes.
template <int N, class Body>
void over_rows(Queue& queue, int64_t rows, int64_t width, bool vector, const Body& body,
               View<double, 1> score) {
  if (rows == 0) return;
  const unsigned blocks = unsigned(ceil_div(rows, kWarps));
  if (vector && width % N == 0) {
    rows_kernel<N><<<blocks, kThreads, 0, stream(queue)>>>(rows, int(width), body, score.data());
  } else {
    rows_kernel<1><<<blocks, kThreads, 0, stream(queue)>>>(rows, int(width), body, score.data());
  }
  launched();
}

template <class T>
struct RowDots {
  const T *x, *y;
  int64_t width;
  template <int N>
  __device__ void add(int64_t row, int i, float& sum) const {
    float a[N], b[N];
    load<N>(x + row * width + i, a);
    load<N>(y + row * width + i, b);
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(a[j], b[j], sum);
  }
  __device__ double factor(int64_t) const {
    return 1;
  }
};

template <class T>
void row_dots(Queue& queue, View<const T, 2> x, View<const T, 2> y, View<double, 1> score) {
  using V = native_t<T>;
  const RowDots<V> body{raw(x), raw(y), x.dim(1)};
  over_rows<kVec<V>>(queue, x.dim(0), x.dim(1), all_aligned16(body.x, body.y), body, score);
}

template <class T>
struct LookupDots {
  const T *b, *d;
  const int32_t* index;
  int64_t width;
  template <int N>
  __device__ void add(int64_t row, int i, float& sum) const {
    float v[N], w[N];
    load<N>(b + row * width + i, v);
    load<N>(d + index[row] * width + i, w);
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(v[j], w[j], sum);
  }
  __device__ double factor(int64_t) const {
    return 1;
  }
};

template <class T>
void lookup_dots(Queue& queue, View<const T, 2> b, View<const int32_t, 1> index, View<const T, 2> d,
                 View<double, 1> score) {
  using V = native_t<T>;
  const LookupDots<V> body{raw(b), raw(d), index.data(), b.dim(1)};
  over_rows<kVec<V>>(queue, b.dim(0), b.dim(1), all_aligned16(body.b, body.d), body, score);
}

template <class T>
struct ScaleDots {
  const T *x, *b, *d;
  const float* rstd;
  int64_t width;
  template <int N>
  __device__ void add(int64_t row, int i, float& sum) const {
    float u[N], v[N], w[N];
    load<N>(x + row * width + i, u);
    load<N>(b + row * width + i, v);
    load<N>(d + i, w);
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(u[j] * v[j], w[j], sum);
  }
  __device__ double factor(int64_t row) const {
    return double(rstd[row]);
  }
};

template <class T>
void scale_dots(Queue& queue, View<const T, 2> x, View<const float, 1> rstd, View<const T, 2> b,
                View<const T, 1> d, View<double, 1> score) {
  using V = native_t<T>;
  const ScaleDots<V> body{raw(x), raw(b), raw(d), rstd.data(), x.dim(1)};
  over_rows<kVec<V>>(queue, x.dim(0), x.dim(1), all_aligned16(body.x, body.b, body.d), body, score);
}

__global__ void token_kernel(int64_t tokens, int64_t rows_per_token, const double* __restrict__ score,
                             double* __restrict__ sums) {
  const int64_t t = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= tokens) return;
  double sum = sums[t];
  for (int64_t r = t * rows_per_token; r < (t + 1) * rows_per_token; ++r) sum += score[r];
  sums[t] = sum;
}

void add_to_tokens(Queue& queue, View<const double, 1> score, int64_t rows_per_token, View<double, 1> sums) {
  const int64_t tokens = score.size() / rows_per_token;
  if (tokens == 0) return;
  token_kernel<<<unsigned(ceil_div(tokens, kThreads)), kThreads, 0, stream(queue)>>>(
      tokens, rows_per_token, score.data(), sums.data());
  launched();
}

__global__ void list_kernel(int64_t tokens, const int32_t* __restrict__ offsets,
                            const int32_t* __restrict__ rows, const double* __restrict__ score,
                            double* __restrict__ sums) {
  const int64_t t = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= tokens) return;
  double sum = sums[t];
  for (int j = offsets[t]; j < offsets[t + 1]; ++j) sum += score[rows[j]];
  sums[t] = sum;
}

void add_lists_to_tokens(Queue& queue, View<const double, 1> score, View<const int32_t, 1> offsets,
                         View<const int32_t, 1> rows, View<double, 1> sums) {
  if (sums.size() == 0) return;
  list_kernel<<<unsigned(ceil_div(sums.size(), kThreads)), kThreads, 0, stream(queue)>>>(
      sums.size(), offsets.data(), rows.data(), score.data(), sums.data());
  launched();
}

// ---- Directions ----

template <class X>
struct Blend {
  const X* x;
  float* mean;
  float old, fresh;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N], m[N];
    load<N>(x + i, a);
    load<N>(mean + i, m);
#pragma unroll
    for (int j = 0; j < N; ++j) m[j] = old * m[j] + fresh * a[j];
    store<N>(mean + i, m);
  }
};

template <class X>
void blend(Queue& queue, double keep, View<const X, 1> x, View<float, 1> mean) {
  const Blend<native_t<X>> body{raw(x), mean.data(), float(keep), float(1 - keep)};
  map<4>(queue, x.size(), all_aligned16(body.x, body.mean), body);
}

template <class T>
struct Narrow {
  const float* x;
  T* y;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N];
    load<N>(x + i, a);
    store<N>(y + i, a);
  }
};

template <class T>
void narrow(Queue& queue, View<const float, 1> x, View<T, 1> y) {
  const Narrow<native_t<T>> body{x.data(), raw(y)};
  map<4>(queue, x.size(), all_aligned16(body.x, body.y), body);
}

constexpr int kMostBlocks = 1056, kPerThread = 8;

// partial[block]: of the block's elements, kPerThread at a time in float and then in double.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads)
    dot_kernel(int64_t n, const X* __restrict__ x, const Y* __restrict__ y, double* __restrict__ partial) {
  __shared__ double shared[kWarps];
  double sum = 0;
  constexpr int64_t kTile = int64_t(kThreads) * kPerThread;
  for (int64_t begin = int64_t(blockIdx.x) * kTile; begin < n; begin += gridDim.x * kTile) {
    float part = 0;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t i = begin + j * kThreads + threadIdx.x;
      if (i < n) part = fmaf(device::cuda::to_float(x[i]), device::cuda::to_float(y[i]), part);
    }
    sum += part;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) sum += shared[i];
  partial[blockIdx.x] = sum;
}

__global__ void add_partials_kernel(int count, const double* __restrict__ partial, double* __restrict__ out) {
  double sum = 0;
  for (int i = int(threadIdx.x); i < count; i += 32) sum += partial[i];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) *out += sum;
}

template <class X, class Y>
void add_dot(Queue& queue, View<const X, 1> x, View<const Y, 1> y, View<double, 1> sum) {
  if (x.size() == 0) return;
  const int blocks = int(std::min<int64_t>(ceil_div(x.size(), int64_t(kThreads) * kPerThread), kMostBlocks));
  double* const partial = device::cuda::scratch<double>(queue, kMostBlocks);
  dot_kernel<<<unsigned(blocks), kThreads, 0, stream(queue)>>>(x.size(), raw(x), raw(y), partial);
  launched();
  add_partials_kernel<<<1, 32, 0, stream(queue)>>>(blocks, partial, sum.data());
  launched();
}

}  // namespace
}  // namespace cuda

template <class T>
const InfluenceKernels<T>& cuda_influence_kernels() {
  static const InfluenceKernels<T> table = {.row_dots = cuda::row_dots<T>,
                                            .wide_row_dots = cuda::row_dots<float>,
                                            .lookup_dots = cuda::lookup_dots<T>,
                                            .scale_dots = cuda::scale_dots<T>,
                                            .add_to_tokens = cuda::add_to_tokens,
                                            .add_lists_to_tokens = cuda::add_lists_to_tokens,
                                            .blend = cuda::blend<T>,
                                            .blend_wide = cuda::blend<float>,
                                            .narrow = cuda::narrow<T>,
                                            .add_dot = cuda::add_dot<T, T>,
                                            .add_dot_wide = cuda::add_dot<T, float>};
  return table;
}
template const InfluenceKernels<float>& cuda_influence_kernels<float>();
template const InfluenceKernels<device::bf16>& cuda_influence_kernels<device::bf16>();

}  // namespace cadre::trainer
