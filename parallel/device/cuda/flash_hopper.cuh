// What the three attention kernels of sm_90a share. A block is persistent: it claims one item after the other, a tile
// of 128 rows (queries, or keys for dk and dv) of one head, which two warpgroups keep, 64 rows each, while tiles of
// the other side pass by. A third warpgroup feeds shared memory through the copy engine.
#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>

#include "parallel/device/cuda/flash_hopper_roles.cuh"
#include "parallel/device/cuda/hopper_rows.cuh"

namespace cadre::device::cuda::hopper {

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Shared memory descriptor of an operand in boxes of 64 columns, swizzled by 128 bytes. `leading`: bytes from box to
// box, which matters when the columns are the operand's first dimension.
__device__ inline uint64_t descriptor(uint32_t address, uint32_t leading = 16) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}
// scores (64, n) = A B^T over the head: A 64 rows of a tile of kRowsA rows, B all rows of one of kRowsB.
template <int kHead, int kRowsA, int kRowsB, int kCount>
__device__ inline void score_product(float (&scores)[kCount], uint32_t a, uint32_t b) {
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    const int box = k / 4, step = k % 4 * 32;
    const uint64_t left = descriptor(a + box * kRowsA * 128 + step),
                   right = descriptor(b + box * kRowsB * 128 + step);
    if (k == 0) {
      ptx::wgmma_first(scores, left, right);
    } else {
      ptx::wgmma(scores, left, right, 1);
    }
  }
}
// sum (64, kHead) (+)= weights (64, kRows) B.
template <int kRows, int kSum>
__device__ inline void weighted_sum(float (&sum)[kSum], const uint32_t (&weights)[kRows / 4], uint32_t b,
                                    bool keep) {
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k)
    ptx::wgmma(sum, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3],
               descriptor(b + k * 2048, kRows * 128), keep || k > 0);
}
// Accumulators (64, n) as the left operand of the next product.
template <int kCount>
__device__ inline void pack_weights(const float (&w)[kCount], uint32_t (&packed)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) packed[i] = pack(w[2 * i], w[2 * i + 1]);
}

// Copies kRows rows of a head from `row` on to `to`, a box of 64 columns after the other.
template <int kHead, int kRows>
__device__ inline void copy_rows(const CUtensorMap* map, uint32_t bar, uint32_t to, int head, int row,
                                 int sequence) {
#pragma unroll
  for (int box = 0; box < kHead / 64; ++box)
    ptx::copy_box(map, bar, to + box * kRows * 128, head * kHead + box * 64, row, sequence);
}

// Writes a warp's 16 rows times `factor` (by row) from `row` of the sequence on.
template <int kHead>
__device__ inline void write_rows(const float (&sum)[kHead / 2], const float (&factor)[2], uint32_t staging,
                                  __nv_bfloat16* out, int heads, int head, int sequence, int length, int row,
                                  int lane) {
  const WarpRows rows{out + ((int64_t(sequence) * length + row) * heads + head) * kHead, heads * kHead,
                      length - row};
#pragma unroll
  for (int c = 0; c < kHead / 64; ++c) {
    uint32_t v[8][2];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        v[j][h] = pack(sum[c * 32 + j * 4 + h * 2] * factor[h], sum[c * 32 + j * 4 + h * 2 + 1] * factor[h]);
    }
    emit_chunk(staging, v, rows, c * 64, kHead, lane);
    __syncwarp();
  }
}

// Kernel: of flash_hopper_roles.cuh, made of the parameters and the address of its shared memory.
template <class Kernel>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  const Kernel kernel{params, ptx::shared_address(memory)};
  if (threadIdx.x == 0) {
    kernel.barriers().init();
    ptx::fence_barrier_init();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp >= kConsumerWarps) {
    ptx::give_registers<40>();
    if (warp == kConsumerWarps && lane == 0) produce(kernel);
  } else {
    ptx::take_registers<232>();
    consume(kernel, warp, lane);
  }
#endif
}

// Two warpgroups that keep keys, one that makes dq, one whose first lane copies.
inline constexpr int kFourRoles = 512;
inline constexpr int kBiasTerms = 3, kTermBytes = kBiasTerms * 64 * 2;  // of Params::bias
template <class Kernel>
__global__ void __launch_bounds__(kFourRoles, 1) four_roles_kernel(const __grid_constant__ Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  const Kernel kernel{params, ptx::shared_address(memory)};
  kernel.clear(int(threadIdx.x));
  if (threadIdx.x == 0) {
    kernel.init();
    ptx::fence_barrier_init();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp >= 12) {
    ptx::give_registers<32>();
    if (warp == 12 && lane == 0) kernel.produce();
  } else if (warp >= 8) {
    ptx::give_registers<80>();
    kernel.sum_queries(warp - 8, int(threadIdx.x) - 256);
  } else {
    ptx::take_registers<200>();
    kernel.keep_keys(warp, lane);
  }
#endif
}

}  // namespace cadre::device::cuda::hopper
