// Rows of a table by index, and their gradient. The backward pass sorts the tokens by index, keeping their
// order within one index, so that each row of the table is summed by the same threads in order of the tokens.
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kRows = 8;  // a block, one warp each

template <class T, int N>
__global__ void __launch_bounds__(32 * kRows)
    gather_kernel(int64_t rows, int width, const T* __restrict__ table, const int32_t* __restrict__ token,
                  T* __restrict__ y) {
  const int64_t row = int64_t(blockIdx.x) * kRows + threadIdx.y;
  if (row >= rows) return;
  const T* from = table + int64_t(token[row]) * width;
  T* to = y + row * width;
#pragma unroll 4
  for (int i = int(threadIdx.x) * N; i < width; i += 32 * N) {
    float v[N];
    load<N>(from + i, v);
    store<N>(to + i, v);
  }
}

__global__ void iota_kernel(int n, int32_t* out) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = i;
}

// sorted: the tokens in rising order, row[p] where the p-th stood. The block of the first one of a run of
// equal tokens sums all of the run.
constexpr int kColumnThreads = 64;
template <class T, int N>
__global__ void __launch_bounds__(kColumnThreads)
    scatter_kernel(int rows, int width, const int32_t* __restrict__ sorted, const int32_t* __restrict__ row,
                   const T* __restrict__ dy, T* __restrict__ dtable) {
  const int begin = int(blockIdx.x), token = sorted[begin];
  if (begin > 0 && sorted[begin - 1] == token) return;
  const int col = int(blockIdx.y * kColumnThreads + threadIdx.x) * N;
  if (col >= width) return;
  int end = begin + 1;
  while (end < rows && sorted[end] == token) ++end;
  T* out = dtable + int64_t(token) * width + col;
  float sum[N];
  load<N>(out, sum);
  int p = begin;
  constexpr int kAhead = 4;
  for (; p + kAhead <= end; p += kAhead) {
    float d[kAhead][N];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load<N>(dy + int64_t(row[p + i]) * width + col, d[i]);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += d[i][j];
    }
  }
  for (; p < end; ++p) {
    float d[N];
    load<N>(dy + int64_t(row[p]) * width + col, d);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += d[j];
  }
  store<N>(out, sum);
}

struct Sorted {
  const int32_t *token, *row;
};

Sorted sort_tokens(Queue& queue, View<const int32_t, 1> token, int64_t table_rows) {
  const int n = int(token.size()), bits = std::bit_width(uint64_t(table_rows));
  const int64_t stride = ceil_div(n, 64) * 64;
  size_t bytes = 0;
  const auto sort = [&](void* temporary, int32_t* keys, const int32_t* in, int32_t* out) {
    check(cub::DeviceRadixSort::SortPairs(temporary, bytes, token.data(), keys, in, out, n, 0, bits,
                                          stream(queue)));
  };
  sort(nullptr, nullptr, nullptr, nullptr);  // asks for the size
  int32_t* memory = reinterpret_cast<int32_t*>(scratch<std::byte>(queue, 3 * stride * 4 + int64_t(bytes)));
  int32_t *keys = memory, *in = memory + stride, *out = memory + 2 * stride;
  iota_kernel<<<unsigned(ceil_div(n, 256)), 256, 0, stream(queue)>>>(n, in);
  sort(memory + 3 * stride, keys, in, out);
  return {keys, out};
}

}  // namespace

template <class T>
void CudaKernels<T>::embed(Queue& queue, View<const T, 2> table, View<const int32_t, 1> token, View<T, 2> y) {
  if (y.size() == 0) return;
  constexpr int N = kVec<T>;
  const bool vector = y.dim(1) % N == 0 && all_aligned16(table.data(), y.data());
  const auto kernel = vector ? gather_kernel<native_t<T>, N> : gather_kernel<native_t<T>, 1>;
  kernel<<<unsigned(ceil_div(y.dim(0), kRows)), dim3(32, kRows), 0, stream(queue)>>>(
      y.dim(0), int(y.dim(1)), raw(table), token.data(), raw(y));
  launched();
}

template <class T>
void CudaKernels<T>::embed_backward(Queue& queue, View<const T, 2> dy, View<const int32_t, 1> token,
                                    View<T, 2> dtable) {
  if (dy.size() == 0) return;
  const Sorted sorted = sort_tokens(queue, token, dtable.dim(0));
  constexpr int N = kVec<T>;
  const bool vector = dy.dim(1) % N == 0 && all_aligned16(dy.data(), dtable.data());
  const auto kernel = vector ? scatter_kernel<native_t<T>, N> : scatter_kernel<native_t<T>, 1>;
  const dim3 grid(unsigned(dy.dim(0)), unsigned(ceil_div(dy.dim(1), kColumnThreads * (vector ? N : 1))));
  kernel<<<grid, kColumnThreads, 0, stream(queue)>>>(int(dy.dim(0)), int(dy.dim(1)), sorted.token, sorted.row,
                                                     raw(dy), raw(dtable));
  launched();
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
