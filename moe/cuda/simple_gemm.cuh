// A plain tiled product in fp32 with any strides and types: what float runs on, and any shape or alignment that
// the tensor-core kernels do not take. 256 threads make a 64 x 64 tile, 4 x 4 values each.
#pragma once

#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {

inline constexpr int kSimpleTile = 64, kSimpleThreads = 256;

// c (m, n) = (accumulate ? c : 0) + a (m, k) b (k, n). A stride says how far the next row or column is.
template <class A, class B, class C>
struct SimpleProduct {
  const A* a;
  int64_t a_row, a_column;
  const B* b;
  int64_t b_row, b_column;
  C* c;
  int64_t c_row;
  int64_t m, n, k;
  bool accumulate;
};

template <class A, class B, class C>
__device__ void simple_tile(const SimpleProduct<A, B, C>& p, int64_t row, int64_t column) {
  constexpr int kDepth = 16;
  __shared__ float tile_a[kDepth][kSimpleTile + 4], tile_b[kDepth][kSimpleTile + 4];
  float sums[4][4] = {};
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
    for (int i = threadIdx.x; i < kDepth * kSimpleTile; i += kSimpleThreads) {
      // Neighbouring threads take neighbouring addresses, whichever axis is contiguous.
      const int along_a = p.a_column == 1 ? i % kDepth : i / kSimpleTile;
      const int across_a = p.a_column == 1 ? i / kDepth : i % kSimpleTile;
      const int along_b = p.b_row == 1 ? i % kDepth : i / kSimpleTile;
      const int across_b = p.b_row == 1 ? i / kDepth : i % kSimpleTile;
      const bool in_a = k0 + along_a < p.k && row + across_a < p.m;
      const bool in_b = k0 + along_b < p.k && column + across_b < p.n;
      tile_a[along_a][across_a] =
          in_a ? to_float(p.a[(row + across_a) * p.a_row + (k0 + along_a) * p.a_column]) : 0.f;
      tile_b[along_b][across_b] =
          in_b ? to_float(p.b[(k0 + along_b) * p.b_row + (column + across_b) * p.b_column]) : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float4 a = *reinterpret_cast<const float4*>(&tile_a[k][ty * 4]);
      const float4 b = *reinterpret_cast<const float4*>(&tile_b[k][tx * 4]);
      const float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += av[i] * bv[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t r = row + ty * 4 + i, c = column + tx * 4 + j;
      if (r >= p.m || c >= p.n) continue;
      C& to = p.c[r * p.c_row + c];
      to = C(sums[i][j] + (p.accumulate ? to_float(to) : 0.f));
    }
  }
}

template <class A, class B, class C>
__global__ void __launch_bounds__(kSimpleThreads) simple_gemm(SimpleProduct<A, B, C> p) {
  simple_tile(p, int64_t(blockIdx.y) * kSimpleTile, int64_t(blockIdx.x) * kSimpleTile);
}

}  // namespace cadre::moe::cuda
