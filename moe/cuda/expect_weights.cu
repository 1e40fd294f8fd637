// The first weights of the experts' first product on their way into the cache, while the router and the lists of slots, which
// are short kernels of few blocks, leave memory idle.
#include <algorithm>

#include "moe/cuda/grouped_hopper.h"
#include "moe/cuda/hopper_gemm.h"
#include "moe/cuda/launch.h"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

constexpr int kRows = kTileN / 2;  // of each matrix in a tile

// A block for each of that product, whose first tile it is if every group is one tile; a thread a row of it. What the
// cache gets is what memory holds, whenever that is written, so nothing here has to wait; what comes behind does.
__global__ void __launch_bounds__(2 * kRows)
    expect_kernel(const __nv_bfloat16* gate, const __nv_bfloat16* up, int width, int dim, int tiles) {
  device::cuda::let_next_come();
  const int group = int(blockIdx.x) / tiles, tile = int(blockIdx.x) - group * tiles;
  const int row = tile * kRows + int(threadIdx.x) % kRows;
  const __nv_bfloat16* const from =
      (int(threadIdx.x) < kRows ? gate : up) + (int64_t(group) * width + row) * dim;
  if (row < width) device::cuda::prefetch_bytes(from, uint32_t(2 * min(dim, kBlocksAhead * kTileK)));
  device::cuda::wait_for_kernel_before();
}

}  // namespace

void hopper_expect_swiglu(cudaStream_t stream, int64_t rows, Weights w_gate, Weights w_up) {
  const int64_t experts = w_gate.dim(0), width = w_gate.dim(1), tiles = blocks_for(width, kRows);
  if (rows == 0 || rows > experts * kTileM / 2) return;  // see GemmParams::small_groups
  device::cuda::launch_behind(
      stream, expect_kernel, unsigned(std::min<int64_t>(multiprocessors(), experts * tiles)), 2 * kRows,
      native(w_gate.data()), native(w_up.data()), int(width), int(w_gate.dim(2)), int(tiles));
}

}  // namespace cadre::moe::cuda
