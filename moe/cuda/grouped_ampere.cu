// Grouped bf16 products with mma.sync: the path of sm_80, which newer GPUs run too.
#include "moe/cuda/grouped_products.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/mma_tile.cuh"

namespace cadre::moe::cuda {
namespace {

using device::bf16;
using device::View;
using device::cuda::check;

// y = a op(w): w (groups, n, k), or (groups, k, n) with kAcross.
template <bool kAcross>
__global__ void __launch_bounds__(kMmaThreads)
    rows_product(const __nv_bfloat16* a, const __nv_bfloat16* w, const int64_t* begins, const int64_t* ends,
                 int groups, int64_t n, int64_t k, bool accumulate, __nv_bfloat16* y) {
  int64_t tile = blockIdx.y;
  int group = 0;
  for (;; ++group) {
    if (group == groups) return;
    const int64_t tiles = (ends[group] - begins[group] + kMmaTile - 1) / kMmaTile;
    if (tile < tiles) break;
    tile -= tiles;
  }
  const int64_t begin = begins[group], rows = ends[group] - begin;
  tile_product<false, kAcross>({a + begin * k, k, rows, k},
                               {w + group * n * k, kAcross ? n : k, kAcross ? k : n, kAcross ? n : k},
                               Output<__nv_bfloat16>{y + begin * n, n, rows, n, accumulate}, tile * kMmaTile,
                               int64_t(blockIdx.x) * kMmaTile, k);
}

template <bool kAcross>
void run_rows(cudaStream_t stream, View<const bf16, 2> a, View<const bf16, 3> w,
              View<const int64_t, 1> begins, View<const int64_t, 1> ends, bool accumulate, View<bf16, 2> y) {
  const int64_t rows = a.dim(0), k = a.dim(1), n = y.dim(1), groups = w.dim(0);
  if (rows == 0) return;
  const auto kernel = rows_product<kAcross>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMmaSharedBytes));
  const dim3 grid(blocks_for(n, kMmaTile), unsigned(rows / kMmaTile + groups));
  kernel<<<grid, kMmaThreads, kMmaSharedBytes, stream>>>(native(a.data()), native(w.data()), begins.data(),
                                                         ends.data(), int(groups), n, k, accumulate,
                                                         native(y.data()));
  check(cudaGetLastError());
}

void gemm(cudaStream_t stream, View<const bf16, 2> a, View<const bf16, 3> w, View<const int64_t, 1> begins,
          View<const int64_t, 1> ends, View<bf16, 2> y) {
  run_rows<false>(stream, a, w, begins, ends, false, y);
}
void dgrad(cudaStream_t stream, View<const bf16, 2> b, View<const bf16, 3> w, View<const int64_t, 1> offsets,
           bool accumulate, View<bf16, 2> da) {
  run_rows<true>(stream, b, w, offsets, offsets.rows(1, w.dim(0)), accumulate, da);
}

__global__ void __launch_bounds__(kMmaThreads)
    weight_product(const __nv_bfloat16* b, const __nv_bfloat16* a, const int64_t* offsets, int64_t m,
                   int64_t n, bool accumulate, __nv_bfloat16* dw) {
  const int64_t begin = offsets[blockIdx.z], rows = offsets[blockIdx.z + 1] - begin;
  if (accumulate && rows == 0) return;
  tile_product<true, true>({b + begin * m, m, rows, m}, {a + begin * n, n, rows, n},
                           Output<__nv_bfloat16>{dw + blockIdx.z * m * n, n, m, n, accumulate},
                           int64_t(blockIdx.y) * kMmaTile, int64_t(blockIdx.x) * kMmaTile, rows);
}

void wgrad(device::Queue& queue, View<const bf16, 2> b, View<const bf16, 2> a, View<const int64_t, 1> offsets,
           bool accumulate, View<bf16, 3> dw) {
  const int64_t groups = dw.dim(0), m = dw.dim(1), n = dw.dim(2);
  check(cudaFuncSetAttribute(weight_product, cudaFuncAttributeMaxDynamicSharedMemorySize, kMmaSharedBytes));
  const dim3 grid(blocks_for(n, kMmaTile), blocks_for(m, kMmaTile), unsigned(groups));
  weight_product<<<grid, kMmaThreads, kMmaSharedBytes, stream_of(queue)>>>(
      native(b.data()), native(a.data()), offsets.data(), m, n, accumulate, native(dw.data()));
  check(cudaGetLastError());
}

}  // namespace

const GroupedProducts<bf16>& ampere_products() {
  static constexpr GroupedProducts<bf16> kProducts = {gemm, dgrad, wgrad};
  return kProducts;
}

}  // namespace cadre::moe::cuda
