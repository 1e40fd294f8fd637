// A 128 x 128 tile of a bf16 product with mma.sync and cp.async (sm_80 and newer): 8 warps, 64 x 32 a warp, over
// a ring of three stages of 64 along the contraction. What lies outside the operands reads as 0, so that ragged
// rows and ragged contractions need no other care. Rows and bases are of 16 bytes.
#pragma once

#include <cstdint>
#include <type_traits>

#include "moe/cuda/mma.cuh"
#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {

inline constexpr int kMmaTile = 128, kMmaDepth = 64, kMmaRing = 3, kMmaThreads = 256;
inline constexpr int kMmaOperandBytes = kMmaTile * kMmaDepth * 2;
inline constexpr int kMmaSharedBytes = kMmaRing * 2 * kMmaOperandBytes;

// Part of a matrix in device memory: rows of `stride` values, of which `rows` and `columns` may be read.
struct Piece {
  const __nv_bfloat16* data;
  int64_t stride, rows, columns;
};

// A tile in shared memory is kept as it lies in device memory, in units of 16 bytes whose place is turned by
// the row. kAcross: rows run along the contraction (64 of 128 values), else along the output (128 of 64).
template <bool kAcross>
struct Operand {
  static constexpr int kRows = kAcross ? kMmaDepth : kMmaTile,
                       kUnits = kAcross ? kMmaTile / 8 : kMmaDepth / 8;

  __device__ static uint32_t unit(uint32_t tile, int row, int u) {
    return tile + (row * kUnits + (u ^ (row & 7))) * 16;
  }
  __device__ static void copy(uint32_t tile, const Piece& p, int64_t row0, int64_t column0) {
#pragma unroll
    for (int i = threadIdx.x; i < kRows * kUnits; i += kMmaThreads) {
      const int row = i / kUnits, u = i % kUnits;
      const int64_t r = row0 + row, c = column0 + u * 8;
      const bool inside = r < p.rows && c < p.columns;
      const void* from = inside ? p.data + r * p.stride + c : p.data;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unit(tile, row, u)), "l"(from),
                   "r"(inside ? 16 : 0)
                   : "memory");
    }
  }
  // Four 8 x 8 matrices that start at `out` along the output and `in` along the contraction, 8 further along
  // the output for odd (kOutFirst) or upper matrices, and along the contraction for the others.
  template <bool kOutFirst>
  __device__ static void fragment(uint32_t tile, int out, int in, int lane, uint32_t (&r)[4]) {
    const int low = lane >> 3 & 1, high = lane >> 4;
    out += 8 * (kOutFirst ? low : high);
    in += 8 * (kOutFirst ? high : low);
    if constexpr (kAcross) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(unit(tile, in + (lane & 7), out / 8))
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(unit(tile, out + (lane & 7), in / 8))
                   : "memory");
    }
  }
};

// Of bf16 or float values.
template <class C>
struct Output {
  C* data;
  int64_t stride, rows, columns;
  bool accumulate;
};

template <class C>
__device__ inline void write_pair(const Output<C>& out, int64_t row, int64_t column, float low, float high) {
  if (row >= out.rows || column >= out.columns) return;
  C* to = out.data + row * out.stride + column;
  if (out.accumulate) {
    low += to_float(to[0]);
    high += to_float(to[1]);
  }
  if constexpr (std::is_same_v<C, float>) {
    *reinterpret_cast<float2*>(to) = {low, high};
  } else {
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(low, high);
  }
}

// The tile at (row, column) of out = a b, contracted over `depth`.
template <bool kAcrossA, bool kAcrossB, class C>
__device__ void tile_product(const Piece& a, const Piece& b, const Output<C>& out, int64_t row,
                             int64_t column, int64_t depth) {
  extern __shared__ __align__(128) uint8_t memory[];
  using A = Operand<kAcrossA>;
  using B = Operand<kAcrossB>;
  const uint32_t base = uint32_t(__cvta_generic_to_shared(memory));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp / 4 * 64, wn = warp % 4 * 32;
  const int64_t steps = (depth + kMmaDepth - 1) / kMmaDepth;
  const auto tile_a = [&](int64_t s) { return base + uint32_t(s % kMmaRing) * 2 * kMmaOperandBytes; };
  const auto fetch = [&](int64_t s) {
    if (s < steps) {
      A::copy(tile_a(s), a, kAcrossA ? s * kMmaDepth : row, kAcrossA ? row : s * kMmaDepth);
      B::copy(tile_a(s) + kMmaOperandBytes, b, kAcrossB ? s * kMmaDepth : column,
              kAcrossB ? column : s * kMmaDepth);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");  // an empty group where nothing is left
  };
  float d[4][4][4] = {};
  for (int s = 0; s < kMmaRing - 1; ++s) fetch(s);
  for (int64_t s = 0; s < steps; ++s) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kMmaRing - 2) : "memory");
    __syncthreads();  // stage s is there for all, and nobody reads the one that is fetched next
    fetch(s + kMmaRing - 1);
    const uint32_t ta = tile_a(s), tb = ta + kMmaOperandBytes;
#pragma unroll
    for (int k = 0; k < kMmaDepth; k += 16) {
      uint32_t fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) A::template fragment<true>(ta, wm + i * 16, k, lane, fa[i]);
#pragma unroll
      for (int j = 0; j < 2; ++j) B::template fragment<false>(tb, wn + j * 16, k, lane, fb[j]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_add(d[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t r = row + wm + i * 16 + lane / 4, c = column + wn + j * 8 + lane % 4 * 2;
      write_pair(out, r, c, d[i][j][0], d[i][j][1]);
      write_pair(out, r + 8, c, d[i][j][2], d[i][j][3]);
    }
  }
}

}  // namespace cadre::moe::cuda
