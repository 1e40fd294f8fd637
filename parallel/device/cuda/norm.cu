// RMSNorm and its gradient. A group of threads takes a row and keeps it in registers; rows that are too wide
// or not aligned are read twice by a whole block. The weight's gradient is summed by each group over its rows,
// over the groups of a block, then over the blocks, each in a fixed order.
#include <algorithm>

#include "parallel/device/cuda/copy_async.cuh"
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 256, kFewRows = 512;
// Of the backward pass; a constant, so that sums do not depend on the GPU. 4 for each of an H100's 132
// multiprocessors.
constexpr int kMaxBlocks = 528;

template <int kGroup>
__device__ float group_sum(float x, float* shared) {
  if constexpr (kGroup <= 32) {
    return warp_sum<kGroup>(x);
  } else {
    return block_sum<kGroup>(x, shared);
  }
}

// kNum vectors of N elements a thread, kept as in memory: floats would take twice the registers, and so many warps
// fewer that rows of 1024 came in 3.1 rounds of all warps instead of two.
template <class T, int N, int kGroup, int kNum>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(int64_t rows, int width, const T* x, const T* w, float eps, T* __restrict__ y,
                float* __restrict__ rstd) {
  __shared__ float shared[kThreads / 32];
  wait_for_kernel_before();
  let_next_come();
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int lane = threadIdx.x % kGroup;
  uint4 bits[kNum];
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    const int col = (i * kGroup + lane) * N;
    bits[i] = row < rows && col < width ? *reinterpret_cast<const uint4*>(x + row * width + col) : uint4{};
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    float v[N];
    unpack<T>(bits[i], v);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v[j] * v[j];
  }
  const float r = rsqrtf(group_sum<kGroup>(squares, shared) / float(width) + eps);
  if (row >= rows) return;
  if (lane == 0) rstd[row] = r;
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    const int col = (i * kGroup + lane) * N;
    if (col >= width) continue;
    float v[N], weight[N];
    unpack<T>(bits[i], v);
    load<N>(w + col, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] *= r * weight[j];
    store<N>(y + row * width + col, v);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) wide_norm_kernel(int width, const T* x, const T* w, float eps,
                                                             T* __restrict__ y, float* __restrict__ rstd) {
  __shared__ float shared[kThreads / 32];
  wait_for_kernel_before();
  const int64_t at = int64_t(blockIdx.x) * width;
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += kThreads) squares += to_float(x[at + i]) * to_float(x[at + i]);
  const float r = rsqrtf(block_sum<kThreads>(squares, shared) / float(width) + eps);
  if (threadIdx.x == 0) rstd[blockIdx.x] = r;
  for (int i = threadIdx.x; i < width; i += kThreads)
    y[at + i] = from_float<T>(to_float(x[at + i]) * r * to_float(w[i]));
}

// Rows of the backward pass on their way: kNum vectors of dy, x and dx a thread, for two rows. A thread reads only what it
// copied itself.
template <class T, int N, int kGroup, int kNum>
struct ComingRows {
  enum Array { kDy, kX, kDx, kArrays };
  static constexpr int kBytes = 2 * kArrays * kNum * kThreads * int(sizeof(uint4));
  uint4* memory;

  __device__ uint4* place(int stage, Array array, int i) const {
    return memory + ((stage * kArrays + array) * kNum + i) * kThreads + threadIdx.x;
  }
  // Also for a row that does not exist, so that every row is a group of copies.
  __device__ void fetch(int stage, bool live, int width, const T* dy, const T* x, const T* dx,
                        bool add) const {
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      const int col = (i * kGroup + int(threadIdx.x) % kGroup) * N;
      if (!live || col >= width) continue;
      copy_async(place(stage, kDy, i), dy + col);
      copy_async(place(stage, kX, i), x + col);
      if (add) copy_async(place(stage, kDx, i), dx + col);
    }
    end_copy_group();
  }
  __device__ void get(int stage, Array array, int i, float (&out)[N]) const {
    unpack<T>(read_copied(place(stage, array, i)), out);
  }
};

// dx_i += r w_i dy_i - x_i r^3 / D sum_j(dy_j w_j x_j), r = rstd; the group's sum of dy_i x_i r over its rows
// goes to acc. The next row comes while one is in work. dx is read by asynchronous copies alone, which the compiler moves
// across nothing.
template <class T, int N, int kGroup, int kNum>
__device__ void backward_rows(int64_t rows, int width, const T* dy, const T* x, const T* w, const float* rstd,
                              bool add, T* __restrict__ dx, float* shared,
                              const ComingRows<T, N, kGroup, kNum>& coming, float (&acc)[kNum][N]) {
  using Coming = ComingRows<T, N, kGroup, kNum>;
  constexpr int kGroups = kThreads / kGroup;
  const int lane = threadIdx.x % kGroup;
  const int64_t step = int64_t(gridDim.x) * kGroups;
  int64_t row = int64_t(blockIdx.x) * kGroups + threadIdx.x / kGroup;
  const auto fetch = [&](int stage, int64_t which) {
    const int64_t at = which * width;
    coming.fetch(stage, which < rows, width, dy + at, x + at, dx + at, add);
    return which < rows ? rstd[which] : 0.f;
  };
  float next_r = fetch(0, row);
  // Every thread of a block makes the same number of rounds: they meet at barriers.
  int stage = 0;
  for (int64_t first = int64_t(blockIdx.x) * kGroups; first < rows; first += step, row += step, stage ^= 1) {
    const bool live = row < rows;
    const float r = next_r;
    next_r = fetch(stage ^ 1, row + step);
    wait_for_copies<1>();
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      const int col = (i * kGroup + lane) * N;
      if (!live || col >= width) continue;
      float d[N], v[N], weight[N];
      coming.get(stage, Coming::kDy, i, d);
      coming.get(stage, Coming::kX, i, v);
      load<N>(w + col, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        acc[i][j] += d[j] * v[j] * r;
        dot += d[j] * weight[j] * v[j];
      }
    }
    const float pull = group_sum<kGroup>(dot, shared) * r * r * r / float(width);
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      const int col = (i * kGroup + lane) * N;
      if (!live || col >= width) continue;
      float d[N], v[N], weight[N], sum[N] = {};
      coming.get(stage, Coming::kDy, i, d);
      coming.get(stage, Coming::kX, i, v);
      if (add) coming.get(stage, Coming::kDx, i, sum);
      load<N>(w + col, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += r * (d[j] * weight[j]) - pull * v[j];
      store<N>(dx + row * width + col, sum);
    }
  }
  wait_for_copies<0>();
}

// partial: (blocks, width).
template <class T, int N, int kGroup, int kNum>
__global__ void __launch_bounds__(kThreads, 2)
    norm_backward_kernel(int64_t rows, int width, const T* dy, const T* x, const T* w, const float* rstd,
                         bool add, T* __restrict__ dx, float* __restrict__ partial) {
  constexpr int kGroups = kThreads / kGroup, kWidth = kGroup * kNum * N;
  __shared__ float shared[kThreads / 32];
  extern __shared__ uint4 rows_memory[];
  float acc[kNum][N] = {};
  wait_for_kernel_before();
  let_next_come();
  backward_rows<T, N, kGroup, kNum>(rows, width, dy, x, w, rstd, add, dx, shared, {rows_memory}, acc);
  const int lane = threadIdx.x % kGroup;
  float* out = partial + int64_t(blockIdx.x) * width;
  if constexpr (kGroups == 1) {
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      const int col = (i * kGroup + lane) * N;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (col < width) out[col + j] = acc[i][j];
      }
    }
  } else {
    auto* const sums = reinterpret_cast<float(*)[kWidth]>(rows_memory);
    static_assert(kGroups * kWidth * int(sizeof(float)) <= ComingRows<T, N, kGroup, kNum>::kBytes);
    __syncthreads();  // all rows have been read
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) sums[threadIdx.x / kGroup][(i * kGroup + lane) * N + j] = acc[i][j];
    }
    __syncthreads();
    for (int col = threadIdx.x; col < width; col += kThreads) {
      float sum = 0;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) sum += sums[g][col];
      out[col] = sum;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    wide_norm_backward_kernel(int64_t rows, int width, const T* dy, const T* x, const T* w, const float* rstd,
                              bool add, T* dx, float* __restrict__ partial) {
  __shared__ float shared[kThreads / 32];
  wait_for_kernel_before();
  float* out = partial + int64_t(blockIdx.x) * width;
  for (int i = threadIdx.x; i < width; i += kThreads) out[i] = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t at = row * width;
    const float r = rstd[row];
    float dot = 0;
    for (int i = threadIdx.x; i < width; i += kThreads)
      dot += to_float(dy[at + i]) * to_float(w[i]) * to_float(x[at + i]);
    const float pull = block_sum<kThreads>(dot, shared) * r * r * r / float(width);
    for (int i = threadIdx.x; i < width; i += kThreads) {
      const float d = to_float(dy[at + i]), v = to_float(x[at + i]);
      const float before = add ? to_float(dx[at + i]) : 0;
      dx[at + i] = from_float<T>(before + r * to_float(w[i]) * d - pull * v);
      out[i] += d * v * r;
    }
  }
}

// dw += the sum over blocks: 32 columns a block, its 32 warps share the rows of `partial`.
template <class T>
__global__ void __launch_bounds__(1024)
    add_partials_kernel(int blocks, int width, const float* partial, T* dw) {
  __shared__ float shared[32][33];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, col = blockIdx.x * 32 + lane;
  float sum = 0;
  wait_for_kernel_before();
  if (col < width) {
#pragma unroll 4
    for (int block = warp; block < blocks; block += 32) sum += partial[int64_t(block) * width + col];
  }
  shared[warp][lane] = sum;
  __syncthreads();
  const float total = warp_sum(shared[lane][warp]);  // of column `warp`
  const int own = blockIdx.x * 32 + warp;
  if (lane == 0 && own < width) dw[own] = from_float<T>(to_float(dw[own]) + total);
}

// Calls launch.run<N, kGroup, kNum>() for a row of `width`, or launch.run_wide().
template <class T, class Launch>
void by_width(int64_t width, bool vector, const Launch& launch) {
  constexpr int N = kVec<T>;
  const int64_t count = width / N;
  if (!vector || width % N != 0 || count > 1024) return launch.run_wide();
  if (count <= 16) return launch.template run<N, 16, 1>();
  if (count <= 32) return launch.template run<N, 32, 1>();
  if (count <= 128) return launch.template run<N, 32, 4>();
  if (count <= 256) return launch.template run<N, Launch::kMiddle, 256 / Launch::kMiddle>();
  launch.template run<N, 256, 4>();
}

template <class T>
struct Forward {
  static constexpr int kMiddle = 32;  // threads of a row of 129 to 256 vectors: a warp meets no barrier
  cudaStream_t stream;
  int64_t rows;
  int width;
  const T *x, *w;
  float eps;
  T* y;
  float* rstd;
  template <int N, int kGroup, int kNum>
  void run() const {
    launch_behind(stream, norm_kernel<T, N, kGroup, kNum>, unsigned(ceil_div(rows, kThreads / kGroup)),
                  kThreads, rows, width, x, w, eps, y, rstd);
  }
  void run_wide() const {
    launch_behind(stream, wide_norm_kernel<T>, unsigned(rows), kThreads, width, x, w, eps, y, rstd);
  }
};

template <class T>
struct Backward {
  static constexpr int kMiddle = 256;  // a warp would need too many registers for its part of dw
  cudaStream_t stream;
  int64_t rows;
  int width;
  const T *dy, *x, *w;
  const float* rstd;
  bool add;
  T *dx, *dw;
  float* partial;  // (kMaxBlocks, width)
  template <int N, int kGroup, int kNum>
  void run() const {
    // As many as run at a time: of four vectors a thread there is room for half as many.
    constexpr int kMost = kNum == 4 ? kMaxBlocks / 2 : kMaxBlocks;
    const int blocks = int(std::min<int64_t>(ceil_div(rows, kThreads / kGroup), kMost));
    constexpr auto kKernel = norm_backward_kernel<T, N, kGroup, kNum>;
    constexpr int kBytes = ComingRows<T, N, kGroup, kNum>::kBytes;
    check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    check(cudaFuncSetAttribute(kKernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared));
    launch_behind_with(kBytes, stream, kKernel, unsigned(blocks), kThreads, rows, width, dy, x, w, rstd, add,
                       dx, partial);
    add_partials(blocks);
  }
  void run_wide() const {
    const int blocks = int(std::min<int64_t>(rows, kMaxBlocks));
    launch_behind(stream, wide_norm_backward_kernel<T>, unsigned(blocks), kThreads, rows, width, dy, x, w,
                  rstd, add, dx, partial);
    add_partials(blocks);
  }
  void add_partials(int blocks) const {
    launch_behind(stream, add_partials_kernel<T>, unsigned(ceil_div(width, 32)), 1024, blocks, width, partial,
                  dw);
  }
};

}  // namespace

template <class T>
void CudaKernels<T>::rms_norm(Queue& queue, View<const T, 2> x, View<const T, 1> w, double eps, View<T, 2> y,
                              View<W, 1> rstd) {
  if (x.size() == 0) return;
  const Forward<native_t<T>> launch{stream(queue), x.dim(0),   int(x.dim(1)), raw(x),
                                    raw(w),        float(eps), raw(y),        rstd.data()};
  constexpr int N = kVec<T>;
  const int64_t count = x.dim(1) / N;
  const bool vector = all_aligned16(launch.x, launch.w, launch.y);
  // Few rows leave most of a GPU idle: then a whole block takes one.
  if (x.dim(0) <= kFewRows && vector && x.dim(1) % N == 0 && count > 128 && count <= kThreads) {
    launch.template run<N, kThreads, 1>();
  } else {
    by_width<native_t<T>>(x.dim(1), vector, launch);
  }
}

template <class T>
void CudaKernels<T>::rms_norm_backward(Queue& queue, View<const T, 2> dy, View<const T, 2> x,
                                       View<const T, 1> w, View<const W, 1> rstd, bool add, View<T, 2> dx,
                                       View<T, 1> dw) {
  if (x.size() == 0) return;
  const Backward<native_t<T>> launch{stream(queue),
                                     x.dim(0),
                                     int(x.dim(1)),
                                     raw(dy),
                                     raw(x),
                                     raw(w),
                                     rstd.data(),
                                     add,
                                     raw(dx),
                                     raw(dw),
                                     scratch<float>(queue, kMaxBlocks * x.dim(1))};
  by_width<native_t<T>>(x.dim(1), all_aligned16(launch.dy, launch.x, launch.w, launch.dx), launch);
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
