// What the three attention kernels of sm_90a share. A block is persistent: it claims one item after the other, a tile
// of 128 rows (queries, or keys for dk and dv) of one head, which two warpgroups keep, 64 rows each, while tiles of
// the other side pass by. A third warpgroup feeds shared memory through the copy engine.
//
// Why a block ends. One lane (the copying one) and eight warps meet at barriers of shared memory alone.
// - All roles see the same items: the lane claims one, writes it into a slot and waits only for the slot's reading four
//   items ago. The item that says that there is no more is the last thing it writes and the last thing that warps read.
// - All roles count the same tiles: those of Item::tiles, one stage of a ring each. A warp releases every stage once, also
//   where its rows see nothing of the tile, so that each barrier gets its eight arrivals, and waits for the copy before it
//   does, so that no warp is a whole turn of the ring ahead.
// - The lane copies in the order in which warps wait (kept rows, then tile by tile, k before v), and a warp releases a
//   stage after waiting for nothing that is copied later than the next tile's k: two stages are enough.
// Warps of a warpgroup take the same branches around its products: they depend on the item and on `warpgroup` alone.
// Stages are overwritten after eight arrivals, each behind the warp's own wait for the products that read them.
#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>

#include "parallel/device/cuda/flash_plan.h"
#include "parallel/device/cuda/hopper_ptx.h"
#include "parallel/device/cuda/hopper_rows.cuh"

namespace cadre::device::cuda::hopper {

inline constexpr int kThreads = 384, kConsumerWarps = 8;
inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct Params {
  CUtensorMap own[2];    // what the block keeps: q (and dout), or k and v; boxes of 128 rows
  CUtensorMap other[2];  // what passes by: k and v, or q and dout
  int length, heads, kv_heads;
  Items items;                // pairs: sequences * heads of the tensor whose rows are kept
  float scale;                // of the scores
  const Document* documents;  // (T), or null
  const float2* stats;        // (sequences, heads, padded): log-sum-exp in powers of two, and delta
  int padded;                 // length in whole tiles
  int32_t* next;              // the next item that nobody has claimed, 0 at the start
  float* lse;
  __nv_bfloat16* out[2];  // out, dq, or dk and dv

  __device__ const Document* documents_of(int sequence) const {
    return documents == nullptr ? nullptr : documents + int64_t(sequence) * length;
  }
};

// The rows [block * kOwn, ...) of a head, and the tiles of the other side that pass by.
struct Item {
  int block, pair;  // pair: of sequence and head
  Tiles tiles;
  int edge;  // of flash_plan.h
};

struct Ring {
  int stages, stage = 0;
  uint32_t phase = 0;
  __device__ explicit Ring(int count) : stages(count) {}
  __device__ void next() {
    if (++stage == stages) stage = 0, phase ^= 1;
  }
};

// Items go from the copying lane to the multiplying warps through a few slots of shared memory.
struct Claims {
  static constexpr int kSlots = 4, kSlotBytes = 32, kBytes = kSlots * (kSlotBytes + 2 * 8);
  uint32_t at;  // address

  __device__ uint32_t slot(int turn) const { return at + turn % kSlots * kSlotBytes; }
  __device__ uint32_t there(int turn) const { return at + kSlots * kSlotBytes + turn % kSlots * 8; }
  __device__ uint32_t taken(int turn) const { return there(turn) + kSlots * 8; }
  __device__ void init() const {
    for (int s = 0; s < kSlots; ++s) {
      ptx::barrier_init(there(s), 1);
      ptx::barrier_init(taken(s), kConsumerWarps);
    }
  }
  __device__ void give(int turn, const Item& item, bool live) const {
    ptx::barrier_wait(taken(turn), (turn / kSlots & 1) ^ 1);
    ptx::store_shared(slot(turn),
                      {live ? uint32_t(item.block) : ~0u, uint32_t(item.pair), uint32_t(item.edge), 0});
    ptx::store_shared(slot(turn) + 16, {uint32_t(item.tiles.begin), uint32_t(item.tiles.end), 0, 0});
    ptx::barrier_arrive(there(turn));
  }
  // By a whole warp. False when there is no more.
  __device__ bool take(int turn, int lane, Item& item) const {
    ptx::barrier_wait(there(turn), turn / kSlots & 1);
    const uint4 v = ptx::load_shared(slot(turn)), w = ptx::load_shared(slot(turn) + 16);
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(taken(turn));
    item = {int(v.x), int(v.y), {int(w.x), int(w.y)}, int(v.z)};
    return item.block >= 0;
  }
};

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

// The bodies of the three roles, from Kernel: init(), produce(), consume(warpgroup, warp, lane).
template <class Kernel>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  const Kernel kernel{params, ptx::shared_address(memory)};
  if (threadIdx.x == 0) {
    kernel.init();
    ptx::fence_barrier_init();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp >= kConsumerWarps) {
    ptx::give_registers<40>();
    if (warp == kConsumerWarps && lane == 0) kernel.produce();
  } else {
    ptx::take_registers<232>();
    kernel.consume(warp / 4, warp, lane);
  }
#endif
}

}  // namespace cadre::device::cuda::hopper
