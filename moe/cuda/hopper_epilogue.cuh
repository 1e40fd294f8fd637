// What a warp does with its 16 x 256 sums of a tile (sm_90a). Global memory is touched in rows of 128 bytes: a
// chunk of 16 x 64 values goes through a 2 KiB piece of shared memory that only this warp uses, in 16-byte
// units whose place is turned by the row, so that neither side has bank conflicts.
#pragma once

#include "moe/cuda/hopper_gemm.h"
#include "moe/cuda/hopper_ptx.h"

namespace cadre::moe::cuda {

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

__device__ inline void fetch_chunk(const WarpRows& rows, int column, int columns, int lane, uint4 (&v)[4]) {
  const int c = column + (lane & 7) * 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * i + (lane >> 3);
    v[i] = row < rows.count && c < columns
               ? *reinterpret_cast<const uint4*>(rows.data + row * rows.stride + c)
               : uint4{0, 0, 0, 0};
  }
}
__device__ inline void place_chunk(uint32_t chunk, int lane, const uint4 (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) ptx::store_shared(unit_address(chunk, i, lane), v[i]);
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

// out = sums
__device__ inline void epilogue_plain(const float (&d)[128], uint32_t stage, const WarpRows& rows, int column,
                                      int columns, int lane) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    uint32_t v[8][2];
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) v[j][h] = pack(d[c * 32 + j * 4 + h * 2], d[c * 32 + j * 4 + h * 2 + 1]);
    // Two pieces in turn: the __syncwarp inside the next chunk comes between the reads here and the writes of
    // the one after it.
    emit_chunk(stage + (c & 1) * kChunkBytes, v, rows, column + c * 64, columns, lane);
  }
}

// out += sums, added in fp32 and rounded once.
__device__ inline void epilogue_accumulate(const float (&d)[128], uint32_t stage, const WarpRows& rows,
                                           int column, int columns, int lane) {
  uint4 next[4];
  fetch_chunk(rows, column, columns, lane, next);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const uint32_t chunk = stage + (c & 1) * kChunkBytes;
    place_chunk(chunk, lane, next);
    if (c < 3) fetch_chunk(rows, column + (c + 1) * 64, columns, lane, next);
    __syncwarp();
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      uint32_t r[4];
      ptx::load_matrices(block_address(chunk, pair, lane), r);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int at = c * 32 + (2 * pair + (q >> 1)) * 4 + (q & 1) * 2;
        const float2 old = unpack(r[q]);
        r[q] = pack(old.x + d[at], old.y + d[at + 1]);
      }
      ptx::store_matrices(block_address(chunk, pair, lane), r);
    }
    __syncwarp();
    write_chunk(chunk, rows, column + c * 64, columns, lane);
  }
}

__device__ inline float sigmoid(float x) {
  return __fdividef(1.f, 1.f + __expf(-x));
}

// Columns 0..127 of the sums are gate, 128..255 up. Both are rounded before the activation, as the backward
// pass finds them.
__device__ inline void epilogue_swiglu(const float (&d)[128], uint32_t stage, const WarpRows& gate,
                                       const WarpRows& up, const WarpRows& act, int64_t column,
                                       int64_t columns, int lane) {
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    uint32_t g[8][2], u[8][2], a[8][2];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = c * 32 + j * 4 + h * 2;
        g[j][h] = pack(d[at], d[at + 1]);
        u[j][h] = pack(d[at + 64], d[at + 65]);
        const float2 x = unpack(g[j][h]), v = unpack(u[j][h]);
        a[j][h] = pack(x.x * sigmoid(x.x) * v.x, x.y * sigmoid(x.y) * v.y);
      }
    }
    const int first = c & 1;  // three chunks a turn: pieces 0 1 0, then 1 0 1
    emit_chunk(stage + first * kChunkBytes, g, gate, column + c * 64, columns, lane);
    emit_chunk(stage + (first ^ 1) * kChunkBytes, u, up, column + c * 64, columns, lane);
    emit_chunk(stage + first * kChunkBytes, a, act, column + c * 64, columns, lane);
  }
}

// The sums are o = dL/d(weight a) with a = silu(gate) up. gate and up become their gradients, out becomes
// weight a, and `dots` the part of <o, a> of this lane's two rows over its columns of the tile.
__device__ inline void epilogue_swiglu_backward(const float (&d)[128], uint32_t stage, const WarpRows& gate,
                                                const WarpRows& up, const WarpRows& out,
                                                const float (&weight)[2], int column, int columns, int lane,
                                                float (&dots)[2]) {
  const uint32_t piece[2] = {stage, stage + kChunkBytes};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    {
      uint4 v[2][4];
      fetch_chunk(gate, column + c * 64, columns, lane, v[0]);
      fetch_chunk(up, column + c * 64, columns, lane, v[1]);
      place_chunk(piece[0], lane, v[0]);
      place_chunk(piece[1], lane, v[1]);
    }
    __syncwarp();
    uint32_t weighted[8][2];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      uint32_t g[4], u[4];
      ptx::load_matrices(block_address(piece[0], pair, lane), g);
      ptx::load_matrices(block_address(piece[1], pair, lane), u);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int j = 2 * pair + (q >> 1), h = q & 1, at = c * 32 + j * 4 + h * 2;
        const float2 x2 = unpack(g[q]), v2 = unpack(u[q]);
        const float x[2] = {x2.x, x2.y}, v[2] = {v2.x, v2.y};
        float dg[2], du[2], wa[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float s = sigmoid(x[i]), silu = x[i] * s, o = d[at + i], w = weight[h] * o;
          dots[h] += o * (silu * v[i]);
          wa[i] = weight[h] * (silu * v[i]);
          du[i] = w * silu;
          dg[i] = w * v[i] * (s + silu * (1.f - s));
        }
        g[q] = pack(dg[0], dg[1]);
        u[q] = pack(du[0], du[1]);
        weighted[j][h] = pack(wa[0], wa[1]);
      }
      ptx::store_matrices(block_address(piece[0], pair, lane), g);
      ptx::store_matrices(block_address(piece[1], pair, lane), u);
    }
    __syncwarp();
    write_chunk(piece[0], gate, column + c * 64, columns, lane);
    write_chunk(piece[1], up, column + c * 64, columns, lane);
    __syncwarp();
    emit_chunk(piece[0], weighted, out, column + c * 64, columns, lane);
    __syncwarp();
  }
}

}  // namespace cadre::moe::cuda
