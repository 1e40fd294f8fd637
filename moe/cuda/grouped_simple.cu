#include "moe/cuda/grouped_products.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/simple_gemm.cuh"

namespace cadre::moe::cuda {
namespace {

using device::View;
using device::cuda::check;

// The tile of rows that block `tile` of the y axis takes; false behind the last one.
__device__ inline bool find_rows(const int64_t* begins, const int64_t* ends, int groups, int64_t tile,
                                 int& group, int64_t& row) {
  for (group = 0; group < groups; ++group) {
    const int64_t tiles = (ends[group] - begins[group] + kSimpleTile - 1) / kSimpleTile;
    if (tile < tiles) {
      row = tile * kSimpleTile;
      return true;
    }
    tile -= tiles;
  }
  return false;
}

// y = a op(w): w (groups, n, k) when kTransposed, else (groups, k, n).
template <class N, bool kTransposed>
__global__ void __launch_bounds__(kSimpleThreads)
    rows_product(const N* a, const N* w, const int64_t* begins, const int64_t* ends, int groups, int64_t n,
                 int64_t k, bool accumulate, N* y) {
  int group = 0;
  int64_t row = 0;
  if (!find_rows(begins, ends, groups, blockIdx.y, group, row)) return;
  const int64_t begin = begins[group];
  simple_tile(
      SimpleProduct<N, N, N>{a + begin * k, k, 1, w + group * n * k, kTransposed ? 1 : n, kTransposed ? k : 1,
                             y + begin * n, n, ends[group] - begin, n, k, accumulate},
      row, int64_t(blockIdx.x) * kSimpleTile);
}

template <class T, bool kTransposed>
void run_rows(cudaStream_t stream, View<const T, 2> a, View<const T, 3> w, View<const int64_t, 1> begins,
              View<const int64_t, 1> ends, bool accumulate, View<T, 2> y) {
  const int64_t rows = a.dim(0), k = a.dim(1), n = y.dim(1), groups = w.dim(0);
  if (rows == 0 || n == 0) return;
  const dim3 grid(blocks_for(n, kSimpleTile), unsigned(rows / kSimpleTile + groups));
  rows_product<native_t<T>, kTransposed>
      <<<grid, kSimpleThreads, 0, stream>>>(native(a.data()), native(w.data()), begins.data(), ends.data(),
                                            int(groups), n, k, accumulate, native(y.data()));
  check(cudaGetLastError());
}

template <class T>
void gemm(cudaStream_t stream, View<const T, 2> a, View<const T, 3> w, View<const int64_t, 1> begins,
          View<const int64_t, 1> ends, View<T, 2> y) {
  run_rows<T, true>(stream, a, w, begins, ends, false, y);
}
template <class T>
void dgrad(cudaStream_t stream, View<const T, 2> b, View<const T, 3> w, View<const int64_t, 1> offsets,
           bool accumulate, View<T, 2> da) {
  run_rows<T, false>(stream, b, w, offsets, offsets.rows(1, w.dim(0)), accumulate, da);
}

template <class N>
__global__ void __launch_bounds__(kSimpleThreads)
    weight_product(const N* b, const N* a, const int64_t* offsets, int64_t m, int64_t n, bool accumulate,
                   N* dw) {
  const int64_t begin = offsets[blockIdx.z], rows = offsets[blockIdx.z + 1] - begin;
  if (accumulate && rows == 0) return;
  simple_tile(SimpleProduct<N, N, N>{b + begin * m, 1, m, a + begin * n, n, 1, dw + blockIdx.z * m * n, n, m,
                                     n, rows, accumulate},
              int64_t(blockIdx.y) * kSimpleTile, int64_t(blockIdx.x) * kSimpleTile);
}

template <class T>
void wgrad(device::Queue& queue, View<const T, 2> b, View<const T, 2> a, View<const int64_t, 1> offsets,
           bool accumulate, View<T, 3> dw) {
  const int64_t groups = dw.dim(0), m = dw.dim(1), n = dw.dim(2);
  if (dw.empty()) return;
  const dim3 grid(blocks_for(n, kSimpleTile), blocks_for(m, kSimpleTile), unsigned(groups));
  weight_product<<<grid, kSimpleThreads, 0, stream_of(queue)>>>(
      native(b.data()), native(a.data()), offsets.data(), m, n, accumulate, native(dw.data()));
  check(cudaGetLastError());
}

}  // namespace

template <class T>
const GroupedProducts<T>& simple_products() {
  static constexpr GroupedProducts<T> kProducts = {gemm<T>, dgrad<T>, wgrad<T>};
  return kProducts;
}
template const GroupedProducts<float>& simple_products<float>();
template const GroupedProducts<device::bf16>& simple_products<device::bf16>();

}  // namespace cadre::moe::cuda
