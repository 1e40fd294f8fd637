// What a warp does with its 16 x 256 sums of a tile (sm_90a), in chunks of 16 x 64 (hopper_rows.cuh).
#pragma once

#include "moe/cuda/hopper_gemm.h"
#include "parallel/device/cuda/hopper_rows.cuh"

namespace cadre::moe::cuda {

using device::cuda::block_address;
using device::cuda::emit_chunk;
using device::cuda::kChunkBytes;
using device::cuda::pack;
using device::cuda::unit_address;
using device::cuda::unpack;
using device::cuda::WarpRows;
using device::cuda::write_chunk;
namespace ptx = device::cuda::ptx;

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

// What SwiGLU's way back reads comes in asynchronous copies, two chunks ahead: of the first two from the start of the
// tile, while the tensor cores work on it.
inline constexpr int kBackwardPieces = 5;  // gate and up of two chunks, and a result
struct GateUp {
  WarpRows gate, up;
  uint32_t stage;
  int column, columns;

  // Asks for chunk c; the thread's copies of each call are a group of their own.
  __device__ void fetch(int c, int lane) const {
    const uint32_t piece = stage + (c & 1) * 2 * kChunkBytes;
    const int at = column + c * 64 + (lane & 7) * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 4 * i + (lane >> 3);
      const bool live = row < gate.count && at < columns;
      const int64_t from = live ? int64_t(row) * gate.stride + at : 0;
      ptx::copy_unit(unit_address(piece, i, lane), gate.data + from, live);
      ptx::copy_unit(unit_address(piece + kChunkBytes, i, lane), up.data + from, live);
    }
    ptx::commit_units();
  }
};

// The sums are o = dL/d(weight a) with a = silu(gate) up. gate and up become their gradients, out becomes
// weight a, and `dots` the part of <o, a> of this lane's two rows over its columns of the tile. kWeighted: false
// for weights of 1, without out and dots.
template <bool kWeighted>
__device__ inline void epilogue_swiglu_backward(const float (&d)[128], const GateUp& in, const WarpRows& out,
                                                const float (&weight)[2], int lane, float (&dots)[2]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const uint32_t first = in.stage + (c & 1) * 2 * kChunkBytes;
    const uint32_t piece[3] = {first, first + kChunkBytes, in.stage + 4 * kChunkBytes};
    const int column = in.column + c * 64;
    if (c < 3) {
      ptx::wait_for_units<1>();
    } else {
      ptx::wait_for_units<0>();
    }
    __syncwarp();
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      uint32_t g[4], u[4], weighted[4];
      ptx::load_matrices(block_address(piece[0], pair, lane), g);
      ptx::load_matrices(block_address(piece[1], pair, lane), u);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int h = q & 1, at = c * 32 + (2 * pair + (q >> 1)) * 4 + h * 2;
        const float2 x2 = unpack(g[q]), v2 = unpack(u[q]);
        const float x[2] = {x2.x, x2.y}, v[2] = {v2.x, v2.y};
        float dg[2], du[2], wa[2] = {};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float s = sigmoid(x[i]), silu = x[i] * s, o = d[at + i], w = kWeighted ? weight[h] * o : o;
          if constexpr (kWeighted) {
            dots[h] += o * (silu * v[i]);
            wa[i] = weight[h] * (silu * v[i]);
          }
          du[i] = w * silu;
          dg[i] = w * v[i] * (s + silu * (1.f - s));
        }
        g[q] = pack(dg[0], dg[1]);
        u[q] = pack(du[0], du[1]);
        weighted[q] = pack(wa[0], wa[1]);
      }
      ptx::store_matrices(block_address(piece[0], pair, lane), g);
      ptx::store_matrices(block_address(piece[1], pair, lane), u);
      if constexpr (kWeighted) ptx::store_matrices(block_address(piece[2], pair, lane), weighted);
    }
    __syncwarp();
    write_chunk(piece[0], in.gate, column, in.columns, lane);
    write_chunk(piece[1], in.up, column, in.columns, lane);
    if constexpr (kWeighted) write_chunk(piece[2], out, column, in.columns, lane);
    __syncwarp();  // they were read: the first two may take the chunk after the next
    if (c < 2) in.fetch(c + 2, lane);
  }
}

}  // namespace cadre::moe::cuda
