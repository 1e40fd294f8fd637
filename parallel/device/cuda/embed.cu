// Rows of a table by index, and their gradient. The backward pass sorts the tokens by index, keeping their
// order within one index, so that each row of the table is summed in pieces that depend on the tokens alone.
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kRows = 8;  // a block, one warp each

template <class T, int N>
__global__ void __launch_bounds__(32 * kRows)
    gather_kernel(int64_t rows, int width, const T* table, const int32_t* token, T* __restrict__ y) {
  wait_for_kernel_before();
  let_next_come();
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

// sorted: the tokens in rising order, row[p] where the p-th stood. A run of equal tokens is cut at multiples of
// kChunk, as real text has tokens that fill a tenth of a batch. The block of the first one of a piece sums the piece, into
// the table where it is the whole run, else into partial (2 ceil(rows / kChunk), width): piece 2w begins with chunk w, piece
// 2w + 1 within it, and only the last run of a chunk goes on behind it.
constexpr int kChunk = 64, kColumnThreads = kChunk;
template <class T, int N>
__global__ void __launch_bounds__(kColumnThreads)
    scatter_kernel(int rows, int width, const int32_t* __restrict__ sorted, const int32_t* __restrict__ row,
                   const T* __restrict__ dy, T* __restrict__ dtable, float* __restrict__ partial) {
  const int begin = int(blockIdx.x), token = sorted[begin], inside = begin % kChunk;
  const bool goes_on = begin > 0 && sorted[begin - 1] == token;
  if (inside > 0 && goes_on) return;
  __shared__ int rows_of_piece[kChunk];
  const int own = begin + int(threadIdx.x);
  const bool mine = int(threadIdx.x) < kChunk - inside && own < rows && sorted[own] == token;
  if (mine) rows_of_piece[threadIdx.x] = row[own];
  const int count = __syncthreads_count(mine);
  const int col = int(blockIdx.y * kColumnThreads + threadIdx.x) * N;
  if (col >= width) return;
  const bool whole = !goes_on && (begin + count == rows || sorted[begin + count] != token);
  T* const out = dtable + int64_t(token) * width + col;
  float sum[N] = {};
  if (whole) load<N>(out, sum);
  int p = 0;
  constexpr int kAhead = 4;
  for (; p + kAhead <= count; p += kAhead) {
    float d[kAhead][N];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load<N>(dy + int64_t(rows_of_piece[p + i]) * width + col, d[i]);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += d[i][j];
    }
  }
  for (; p < count; ++p) {
    float d[N];
    load<N>(dy + int64_t(rows_of_piece[p]) * width + col, d);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += d[j];
  }
  if (whole) return store<N>(out, sum);
  float* const piece = partial + int64_t(begin / kChunk * 2 + (inside > 0)) * width + col;
#pragma unroll
  for (int j = 0; j < N; ++j) piece[j] = sum[j];
}

// The runs that begin in chunk w = blockIdx.x and go on behind it: their pieces in order, added to the table.
template <class T>
__global__ void add_pieces_kernel(int rows, int width, const int32_t* __restrict__ sorted,
                                  const float* __restrict__ partial, T* __restrict__ dtable) {
  const int first = int(blockIdx.x) * kChunk, behind = first + kChunk;
  if (behind >= rows) return;
  const int token = sorted[behind];
  if (sorted[behind - 1] != token || (first > 0 && sorted[first - 1] == token)) return;
  const int col = int(blockIdx.y * blockDim.x + threadIdx.x);
  if (col >= width) return;
  float sum = partial[int64_t(blockIdx.x * 2 + (sorted[first] != token)) * width + col];
  for (int at = behind; at < rows && sorted[at] == token; at += kChunk)
    sum += partial[int64_t(at / kChunk * 2) * width + col];
  T* const out = dtable + int64_t(token) * width + col;
  float old[1];
  load<1>(out, old);
  old[0] += sum;
  store<1>(out, old);
}

struct Sorted {
  const int32_t *token, *row;
  float* partial;
};

Sorted sort_tokens(Queue& queue, View<const int32_t, 1> token, int64_t table_rows, int64_t width) {
  const int n = int(token.size()), bits = std::bit_width(uint64_t(table_rows));
  const int64_t stride = ceil_div(n, 64) * 64;
  size_t bytes = 0;
  const auto sort = [&](void* temporary, int32_t* keys, const int32_t* in, int32_t* out) {
    check(cub::DeviceRadixSort::SortPairs(temporary, bytes, token.data(), keys, in, out, n, 0, bits,
                                          stream(queue)));
  };
  sort(nullptr, nullptr, nullptr, nullptr);  // asks for the size
  const int64_t pieces = ceil_div(2 * ceil_div(n, kChunk) * width, 64) * 64;
  int32_t* memory =
      reinterpret_cast<int32_t*>(scratch<std::byte>(queue, 4 * (3 * stride + pieces) + int64_t(bytes)));
  int32_t *keys = memory, *in = memory + stride, *out = memory + 2 * stride;
  iota_kernel<<<unsigned(ceil_div(n, 256)), 256, 0, stream(queue)>>>(n, in);
  sort(memory + 3 * stride + pieces, keys, in, out);
  return {keys, out, reinterpret_cast<float*>(memory + 3 * stride)};
}

}  // namespace

template <class T>
void CudaKernels<T>::embed(Queue& queue, View<const T, 2> table, View<const int32_t, 1> token, View<T, 2> y) {
  if (y.size() == 0) return;
  constexpr int N = kVec<T>;
  const bool vector = y.dim(1) % N == 0 && all_aligned16(table.data(), y.data());
  const auto kernel = vector ? gather_kernel<native_t<T>, N> : gather_kernel<native_t<T>, 1>;
  launch_behind(stream(queue), kernel, unsigned(ceil_div(y.dim(0), kRows)), dim3(32, kRows), y.dim(0),
                int(y.dim(1)), raw(table), token.data(), raw(y));
}

template <class T>
void CudaKernels<T>::embed_backward(Queue& queue, View<const T, 2> dy, View<const int32_t, 1> token,
                                    View<T, 2> dtable) {
  if (dy.size() == 0) return;
  const Sorted sorted = sort_tokens(queue, token, dtable.dim(0), dy.dim(1));
  constexpr int N = kVec<T>;
  const bool vector = dy.dim(1) % N == 0 && all_aligned16(dy.data(), dtable.data());
  const auto kernel = vector ? scatter_kernel<native_t<T>, N> : scatter_kernel<native_t<T>, 1>;
  const dim3 grid(unsigned(dy.dim(0)), unsigned(ceil_div(dy.dim(1), kColumnThreads * (vector ? N : 1))));
  kernel<<<grid, kColumnThreads, 0, stream(queue)>>>(int(dy.dim(0)), int(dy.dim(1)), sorted.token, sorted.row,
                                                     raw(dy), raw(dtable), sorted.partial);
  launched();
  constexpr int kThreads = 256;
  const dim3 chunks(unsigned(ceil_div(dy.dim(0), kChunk)), unsigned(ceil_div(dy.dim(1), kThreads)));
  add_pieces_kernel<<<chunks, kThreads, 0, stream(queue)>>>(int(dy.dim(0)), int(dy.dim(1)), sorted.token,
                                                            sorted.partial, raw(dtable));
  launched();
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
