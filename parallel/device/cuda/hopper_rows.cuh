// From a warp's accumulators to rows in global memory (sm_90a), which is touched in rows of 128 bytes: a chunk of
// 16 x 64 values goes through a 2 KiB piece of shared memory that only this warp uses, in 16-byte units whose
// place is turned by the row, so that neither side has bank conflicts.
#pragma once

#include <cuda_bf16.h>

#include "parallel/device/cuda/hopper_ptx.h"

namespace cadre::device::cuda {

inline constexpr int kChunkBytes = 16 * 128;

// Where a warp's 16 rows of an output lie: `data` is row 0, column 0 of the whole matrix row.
struct WarpRows {
  __nv_bfloat16* data;
  int stride;
  int count;  // rows that exist, may be <= 0
};

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(v);
}
__device__ inline float2 unpack(uint32_t v) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(v));
}

// Address of this lane's row for the 16 x 16 block `pair` of a chunk, as stmatrix and ldmatrix want it.
__device__ inline uint32_t block_address(uint32_t chunk, int pair, int lane) {
  const int row = lane & 15, unit = 2 * pair + (lane >> 4);
  return chunk + row * 128 + ((unit ^ (row & 7)) << 4);
}
// Address of the unit that this lane moves to or from global memory in step i of 4.
__device__ inline uint32_t unit_address(uint32_t chunk, int i, int lane) {
  const int row = 4 * i + (lane >> 3), unit = lane & 7;
  return chunk + row * 128 + ((unit ^ (row & 7)) << 4);
}

__device__ inline void write_chunk(uint32_t chunk, const WarpRows& rows, int column, int columns, int lane) {
  const int c = column + (lane & 7) * 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * i + (lane >> 3);
    const uint4 v = ptx::load_shared(unit_address(chunk, i, lane));
    if (row < rows.count && c < columns) *reinterpret_cast<uint4*>(rows.data + row * rows.stride + c) = v;
  }
}

// One chunk of values that this warp holds as accumulators: v[j][h] are columns 8 j + 2 (lane % 4) + {0, 1} of
// row lane / 4 + 8 h.
__device__ inline void emit_chunk(uint32_t chunk, const uint32_t (&v)[8][2], const WarpRows& rows, int column,
                                  int columns, int lane) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const uint32_t r[4] = {v[2 * pair][0], v[2 * pair][1], v[2 * pair + 1][0], v[2 * pair + 1][1]};
    ptx::store_matrices(block_address(chunk, pair, lane), r);
  }
  __syncwarp();
  write_chunk(chunk, rows, column, columns, lane);
}

}  // namespace cadre::device::cuda
