// Grouped bf16 products with mma.sync and cp.async: the path of sm_80, which newer GPUs run too. A block of 8
// warps makes a 128 x 128 tile, 64 x 32 a warp, over a ring of three stages of 64 along the contraction. What
// lies outside a group reads as 0, so that ragged rows and ragged contractions need no other care.
#include "moe/cuda/grouped_products.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {
namespace {

using device::bf16;
using device::View;
using device::cuda::check;

constexpr int kTile = 128, kDepth = 64, kRing = 3, kThreads = 256;
constexpr int kOperandBytes = kTile * kDepth * 2;
constexpr int kSharedBytes = kRing * 2 * kOperandBytes;

// Part of a matrix in device memory: rows of `stride` values, of which `rows` and `columns` may be read.
struct Piece {
  const __nv_bfloat16* data;
  int64_t stride, rows, columns;
};

// A tile in shared memory is kept as it lies in device memory, in units of 16 bytes whose place is turned by
// the row. kAcross: rows run along the contraction (64 of 128 values), else along the output (128 of 64).
template <bool kAcross>
struct Operand {
  static constexpr int kRows = kAcross ? kDepth : kTile, kUnits = kAcross ? kTile / 8 : kDepth / 8;

  __device__ static uint32_t unit(uint32_t tile, int row, int u) {
    return tile + (row * kUnits + (u ^ (row & 7))) * 16;
  }
  __device__ static void copy(uint32_t tile, const Piece& p, int64_t row0, int64_t column0) {
#pragma unroll
    for (int i = threadIdx.x; i < kRows * kUnits; i += kThreads) {
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

__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Output {
  __nv_bfloat16* data;
  int64_t stride, rows, columns;
  bool accumulate;
};

__device__ inline void write_pair(const Output& out, int64_t row, int64_t column, float low, float high) {
  if (row >= out.rows || column >= out.columns) return;
  auto* to = reinterpret_cast<__nv_bfloat162*>(out.data + row * out.stride + column);
  if (out.accumulate) {
    const float2 old = __bfloat1622float2(*to);
    low += old.x;
    high += old.y;
  }
  *to = __floats2bfloat162_rn(low, high);
}

// The tile at (row, column) of out = a b, contracted over `depth`.
template <bool kAcrossA, bool kAcrossB>
__device__ void tile_product(const Piece& a, const Piece& b, const Output& out, int64_t row, int64_t column,
                             int64_t depth) {
  extern __shared__ __align__(128) uint8_t memory[];
  using A = Operand<kAcrossA>;
  using B = Operand<kAcrossB>;
  const uint32_t base = uint32_t(__cvta_generic_to_shared(memory));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp / 4 * 64, wn = warp % 4 * 32;
  const int64_t steps = (depth + kDepth - 1) / kDepth;
  const auto tile_a = [&](int64_t s) { return base + uint32_t(s % kRing) * 2 * kOperandBytes; };
  const auto fetch = [&](int64_t s) {
    if (s < steps) {
      A::copy(tile_a(s), a, kAcrossA ? s * kDepth : row, kAcrossA ? row : s * kDepth);
      B::copy(tile_a(s) + kOperandBytes, b, kAcrossB ? s * kDepth : column, kAcrossB ? column : s * kDepth);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");  // an empty group where nothing is left
  };
  float d[4][4][4] = {};
  for (int s = 0; s < kRing - 1; ++s) fetch(s);
  for (int64_t s = 0; s < steps; ++s) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kRing - 2) : "memory");
    __syncthreads();  // stage s is there for all, and nobody reads the one that is fetched next
    fetch(s + kRing - 1);
    const uint32_t ta = tile_a(s), tb = ta + kOperandBytes;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
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

// y = a op(w): w (groups, n, k), or (groups, k, n) with kAcross.
template <bool kAcross>
__global__ void __launch_bounds__(kThreads)
    rows_product(const __nv_bfloat16* a, const __nv_bfloat16* w, const int64_t* offsets, int groups,
                 int64_t n, int64_t k, bool accumulate, __nv_bfloat16* y) {
  int64_t tile = blockIdx.y;
  int group = 0;
  for (;; ++group) {
    if (group == groups) return;
    const int64_t tiles = (offsets[group + 1] - offsets[group] + kTile - 1) / kTile;
    if (tile < tiles) break;
    tile -= tiles;
  }
  const int64_t begin = offsets[group], rows = offsets[group + 1] - begin;
  tile_product<false, kAcross>(
      {a + begin * k, k, rows, k}, {w + group * n * k, kAcross ? n : k, kAcross ? k : n, kAcross ? n : k},
      {y + begin * n, n, rows, n, accumulate}, tile * kTile, int64_t(blockIdx.x) * kTile, k);
}

template <bool kAcross>
void run_rows(cudaStream_t stream, View<const bf16, 2> a, View<const bf16, 3> w,
              View<const int64_t, 1> offsets, bool accumulate, View<bf16, 2> y) {
  const int64_t rows = a.dim(0), k = a.dim(1), n = y.dim(1), groups = w.dim(0);
  if (rows == 0) return;
  const auto kernel = rows_product<kAcross>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const dim3 grid(blocks_for(n, kTile), unsigned(rows / kTile + groups));
  kernel<<<grid, kThreads, kSharedBytes, stream>>>(native(a.data()), native(w.data()), offsets.data(),
                                                   int(groups), n, k, accumulate, native(y.data()));
  check(cudaGetLastError());
}

void gemm(cudaStream_t stream, View<const bf16, 2> a, View<const bf16, 3> w, View<const int64_t, 1> offsets,
          View<bf16, 2> y) {
  run_rows<false>(stream, a, w, offsets, false, y);
}
void dgrad(cudaStream_t stream, View<const bf16, 2> b, View<const bf16, 3> w, View<const int64_t, 1> offsets,
           bool accumulate, View<bf16, 2> da) {
  run_rows<true>(stream, b, w, offsets, accumulate, da);
}

__global__ void __launch_bounds__(kThreads)
    weight_product(const __nv_bfloat16* b, const __nv_bfloat16* a, const int64_t* offsets, int64_t m,
                   int64_t n, bool accumulate, __nv_bfloat16* dw) {
  const int64_t begin = offsets[blockIdx.z], rows = offsets[blockIdx.z + 1] - begin;
  if (accumulate && rows == 0) return;
  tile_product<true, true>({b + begin * m, m, rows, m}, {a + begin * n, n, rows, n},
                           {dw + blockIdx.z * m * n, n, m, n, accumulate}, int64_t(blockIdx.y) * kTile,
                           int64_t(blockIdx.x) * kTile, rows);
}

void wgrad(cudaStream_t stream, View<const bf16, 2> b, View<const bf16, 2> a, View<const int64_t, 1> offsets,
           bool accumulate, View<bf16, 3> dw) {
  const int64_t groups = dw.dim(0), m = dw.dim(1), n = dw.dim(2);
  check(cudaFuncSetAttribute(weight_product, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const dim3 grid(blocks_for(n, kTile), blocks_for(m, kTile), unsigned(groups));
  weight_product<<<grid, kThreads, kSharedBytes, stream>>>(native(b.data()), native(a.data()), offsets.data(),
                                                           m, n, accumulate, native(dw.data()));
  check(cudaGetLastError());
}

}  // namespace

const GroupedProducts<bf16>& ampere_products() {
  static constexpr GroupedProducts<bf16> kProducts = {gemm, dgrad, wgrad};
  return kProducts;
}

}  // namespace cadre::moe::cuda
