// Pieces of the attention kernels that use tensor cores through mma.sync, which sm_80 and sm_90 both have. Tiles
// of bf16 rows lie in shared memory with 16 bytes of padding a row, so that ldmatrix meets no bank twice.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace cadre::device::cuda::flash {

inline constexpr int kThreads = 256, kWarps = kThreads / 32;
inline constexpr int kOwn =
    kWarps * 16;                   // rows of the tile that a block keeps: queries, or keys for dk and dv
inline constexpr int kOther = 64;  // rows of the tiles that pass by
inline constexpr int kGroup = 32;  // tokens whose lowest and highest segment are known; divides both

template <int kHead>
inline constexpr int kStride = kHead + 8;  // elements from a row of a tile to the next

struct Params {
  int length, past, heads, kv_heads;
  float scale;
  const __nv_bfloat16 *q, *k, *v, *dout;
  const int32_t* segment;  // or null
  const int2* ranges;      // (sequences, groups): lowest and highest segment; not read without segments
  const float* delta;      // (T, N)
  const float* saved_lse;  // (T, N)
  float* lse;
  __nv_bfloat16 *out, *dq, *dk, *dv;

  __device__ int groups() const { return (length + kGroup - 1) / kGroup; }
};

__device__ inline uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, zeros when not live.
__device__ inline void copy_async(__nv_bfloat16* to, const __nv_bfloat16* from, bool live) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(live ? 16 : 0));
}
__device__ inline void commit() {
  asm volatile("cp.async.commit_group;");
}
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

// Rows [first, first + kRows) of one head, zeros from row `limit` on.
template <int kHead, int kRows>
__device__ inline void copy_tile(__nv_bfloat16* tile, const __nv_bfloat16* base, int64_t stride, int first,
                                 int limit) {
  constexpr int kChunks = kHead / 8;
  static_assert(kRows * kChunks % kThreads == 0);
#pragma unroll
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int at = i * kThreads + int(threadIdx.x), row = at / kChunks, chunk = at % kChunks;
    const bool live = first + row < limit;
    copy_async(tile + row * kStride<kHead> + chunk * 8, base + (live ? first + row : 0) * stride + chunk * 8,
               live);
  }
}

__device__ inline void load_matrices(uint32_t (&r)[4], const __nv_bfloat16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const __nv_bfloat16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
// c (16, 8) += a (16, 16) b (16, 8).
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// Scores of a warp's 16 rows against kOther rows, as the accumulators of kOther / 8 products: element e of
// score[n] stands in row lane / 4 + e / 2 * 8 and column n * 8 + lane % 4 * 2 + e % 2.
using Scores = float[kOther / 8][4];

// scores = A B^T over the head: A 16 rows at `a`, B kOther rows at `b`.
template <int kHead>
__device__ inline void score_product(Scores& scores, const __nv_bfloat16* a, const __nv_bfloat16* b) {
  const int lane = int(threadIdx.x) % 32, matrix = lane / 8, row = lane % 8;
#pragma unroll
  for (int n = 0; n < kOther / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[n][e] = 0;
  }
#pragma unroll
  for (int d = 0; d < kHead; d += 16) {
    uint32_t left[4];
    load_matrices(left, a + (matrix % 2 * 8 + row) * kStride<kHead> + d + matrix / 2 * 8);
#pragma unroll
    for (int n = 0; n < kOther / 8; n += 2) {
      uint32_t right[4];
      load_matrices(right, b + (n * 8 + matrix / 2 * 8 + row) * kStride<kHead> + d + matrix % 2 * 8);
      multiply_add(scores[n], left, right[0], right[1]);
      multiply_add(scores[n + 1], left, right[2], right[3]);
    }
  }
}

// sum (16, kHead) += weights (16, kOther) B: B kOther rows at `b`.
template <int kHead>
__device__ inline void weighted_sum(float (&sum)[kHead / 8][4], const Scores& weights,
                                    const __nv_bfloat16* b) {
  const int lane = int(threadIdx.x) % 32, matrix = lane / 8, row = lane % 8;
#pragma unroll
  for (int n = 0; n < kOther / 8; n += 2) {
    const uint32_t left[4] = {pack(weights[n][0], weights[n][1]), pack(weights[n][2], weights[n][3]),
                              pack(weights[n + 1][0], weights[n + 1][1]),
                              pack(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
    for (int d = 0; d < kHead / 8; d += 2) {
      uint32_t right[4];
      load_matrices_transposed(right,
                               b + (n * 8 + matrix % 2 * 8 + row) * kStride<kHead> + d * 8 + matrix / 2 * 8);
      multiply_add(sum[d], left, right[0], right[1]);
      multiply_add(sum[d + 1], left, right[2], right[3]);
    }
  }
}

// Writes a warp's 16 rows times `factor` (by row), rows below `limit` only.
template <int kHead>
__device__ inline void write_rows(const float (&sum)[kHead / 8][4], const float (&factor)[2],
                                  __nv_bfloat16* base, int64_t stride, int first, int limit) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + lane / 4 + half * 8;
    if (row >= limit) continue;
    __nv_bfloat16* to = base + row * stride + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d) {
      *reinterpret_cast<uint32_t*>(to + d * 8) =
          pack(sum[d][half * 2] * factor[half], sum[d][half * 2 + 1] * factor[half]);
    }
  }
}

// Which pairs of tiles and of tokens of one sequence see each other.
enum Visible : uint8_t { kNone, kSome, kAll };

struct Mask {
  const int32_t* segment;  // of the sequence, or null
  const int2* ranges;
  int groups, past;

  __device__ Mask(const Params& p, int sequence)
      : segment(p.segment == nullptr ? nullptr : p.segment + int64_t(sequence) * p.length),
        ranges(p.ranges + int64_t(sequence) * p.groups()),
        groups(p.groups()),
        past(p.past) {}

  __device__ int2 range(int first, int rows) const {
    int2 result = ranges[first / kGroup];
    const int last = min((first + rows - 1) / kGroup, groups - 1);
    for (int g = first / kGroup + 1; g <= last; ++g) {
      result.x = min(result.x, ranges[g].x);
      result.y = max(result.y, ranges[g].y);
    }
    return result;
  }
  // Queries [q0, q0 + rows), keys [k0, k0 + cols).
  __device__ Visible tiles(int q0, int rows, int k0, int cols) const {
    if (k0 > q0 + rows - 1 + past) return kNone;
    bool all = k0 + cols - 1 <= q0 + past;
    if (segment != nullptr) {
      const int2 q = range(q0, rows), k = range(k0, cols);
      if (q.y < k.x || k.y < q.x) return kNone;
      all = all && q.x == q.y && k.x == k.y && q.x == k.x;
    }
    return all ? kAll : kSome;
  }
};

// Fills visible[tile] for all tiles that pass by; the threads share the work, and meet at its end.
template <class Look>
__device__ inline void find_visible(uint8_t* visible, int tiles, const Look& look) {
  for (int tile = int(threadIdx.x); tile < tiles; tile += kThreads) visible[tile] = look(tile);
  __syncthreads();
}
// The first tile from `tile` on that is seen at all, or `tiles`.
__device__ inline int next_visible(const uint8_t* visible, int tile, int tiles) {
  while (tile < tiles && visible[tile] == kNone) ++tile;
  return tile;
}
inline int64_t visible_bytes(int64_t rows) {
  return (rows + kOther - 1) / kOther;
}
// Of the backward pass, with keys of `rows` tokens; the forward pass takes less.
inline int64_t shared_bytes(int64_t head, int64_t rows) {
  return (2 * kOwn + 4 * kOther) * (head + 8) * 2 + 4 * kOther * 4 + visible_bytes(rows);
}

}  // namespace cadre::device::cuda::flash
