// The roles of a block of the three attention kernels of sm_90a, and how they agree on items and stages.
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

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "parallel/device/cuda/flash_plan.h"
#include "parallel/device/cuda/hopper_ptx.h"

namespace cadre::device::cuda::hopper {

inline constexpr int kThreads = 384, kConsumerWarps = 8;

struct Params {
  CUtensorMap own[2];    // what the block keeps: q (and dout), or k and v; boxes of 128 rows
  CUtensorMap other[2];  // what passes by: k and v, or q and dout
  int length, heads, kv_heads;
  Items items;                // pairs: sequences * heads of the tensor whose rows are kept
  float scale;                // of the scores
  const Document* documents;  // (T), or null
  const float2* stats;        // (sequences, heads, padded): log-sum-exp in powers of two, and delta
  // Of the kernel that makes dq, dk and dv, instead: (sequences, heads, tiles of 64, 2, kBiasTerms, 64): numbers that add up to
  // -log-sum-exp / scale, and such of -delta. In row i of the three, eight numbers stand where eight times (their place ^ i) is.
  const __nv_bfloat16* bias;
  int padded;     // length in whole tiles
  int32_t* next;  // the next item that nobody has claimed, 0 at the start
  float* lse;
  __nv_bfloat16* out[3];  // out, dq, or dk and dv, and dq behind them where one kernel makes all
  float* sums;            // of that kernel: for each block dq of its heads, in tiles

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

// Items go from the copying lane to the kTakers multiplying warps through a few slots of shared memory.
template <int kTakers>
struct Claims {
  static constexpr int kSlots = 4, kSlotBytes = 32, kBytes = kSlots * (kSlotBytes + 2 * 8);
  uint32_t at;  // address

  __device__ uint32_t slot(int turn) const { return at + turn % kSlots * kSlotBytes; }
  __device__ uint32_t there(int turn) const { return at + kSlots * kSlotBytes + turn % kSlots * 8; }
  __device__ uint32_t taken(int turn) const { return there(turn) + kSlots * 8; }
  __device__ void init() const {
    for (int s = 0; s < kSlots; ++s) {
      ptx::barrier_init(there(s), 1);
      ptx::barrier_init(taken(s), kTakers * 32);
    }
  }
  __device__ void give(int turn, const Item& item, bool live) const {
    ptx::barrier_wait(taken(turn), (turn / kSlots & 1) ^ 1);
    ptx::store_shared(slot(turn),
                      {live ? uint32_t(item.block) : ~0u, uint32_t(item.pair), uint32_t(item.edge), 0});
    ptx::store_shared(slot(turn) + 16, {uint32_t(item.tiles.begin), uint32_t(item.tiles.end), 0, 0});
    ptx::barrier_arrive(there(turn));
  }
  // By every lane of a warp. False when there is no more.
  __device__ bool take(int turn, Item& item) const {
    ptx::barrier_wait(there(turn), turn / kSlots & 1);
    const uint4 v = ptx::load_shared(slot(turn)), w = ptx::load_shared(slot(turn) + 16);
    ptx::barrier_arrive(taken(turn));
    item = {int(v.x), int(v.y), {int(w.x), int(w.y)}, int(v.z)};
    return item.block >= 0;
  }
};

// What kernels of kRings rings of kStages tiles keep in shared memory beside their tiles: pairs of barriers, one that says
// that rows are there and one that says that all warps have read them, and behind them the claims.
template <int kStages, int kRings>
struct Barriers {
  static constexpr int kMost = 16, kBytes = kMost * 8 + Claims<kConsumerWarps>::kBytes;
  static_assert(2 + 2 * kRings * kStages <= kMost);
  uint32_t at;  // address

  __device__ uint32_t own_there() const { return at; }  // of the rows that the block keeps
  __device__ uint32_t own_read() const { return at + 8; }
  __device__ uint32_t there(int stage, int ring = 0) const {
    return at + 16 + (2 * ring * kStages + stage) * 8;
  }
  __device__ uint32_t read(int stage, int ring = 0) const { return there(stage, ring) + kStages * 8; }
  __device__ Claims<kConsumerWarps> claims() const { return {at + kMost * 8}; }

  __device__ void init() const {
    ptx::barrier_init(own_there(), 1);
    ptx::barrier_init(own_read(), kConsumerWarps);
    for (int ring = 0; ring < kRings; ++ring) {
      for (int s = 0; s < kStages; ++s) {
        ptx::barrier_init(there(s, ring), 1);
        ptx::barrier_init(read(s, ring), kConsumerWarps);
      }
    }
    claims().init();
  }
};

// Claims the next item of queries, by which tiles of kKeys keys pass. False when there is no more.
template <int kKeys>
__device__ inline bool claim_queries(const Params& p, Item& item) {
  Place place;
  if (!place_of(p.items, atomicAdd(p.next, 1), false, place)) return false;
  const Document* documents = p.documents_of(place.pair / p.heads);
  item = {place.block, place.pair, keys_of_block<kKeys>(place.block, p.length, documents),
          key_edge(place.block, p.length, documents)};
  return true;
}
// The same of keys, by which tiles of kQueries queries pass.
template <int kQueries>
__device__ inline bool claim_keys(const Params& p, Item& item) {
  Place place;
  if (!place_of(p.items, atomicAdd(p.next, 1), true, place)) return false;
  const Document* documents = p.documents_of(place.pair / p.kv_heads);
  item = {place.block, place.pair, queries_of_block<kQueries>(place.block, p.length, documents),
          query_edge(place.block, p.length, documents)};
  return true;
}

// The copying lane. Kernel: kStages, barriers(), claim(item), copy(item, ring) of the kept rows and all tiles that pass by
// once own_read() allows it, and make_tile(item, turn, ring, warpgroup, warp, lane).
template <class Kernel>
__device__ inline void produce(const Kernel& kernel) {
  Ring ring(Kernel::kStages);
  Item item{};
  for (int turn = 0;; ++turn) {
    const bool live = kernel.claim(item);
    kernel.barriers().claims().give(turn, item, live);
    if (!live) return;
    ptx::barrier_wait(kernel.barriers().own_read(), (turn & 1) ^ 1);
    kernel.copy(item, ring);
  }
}
// A multiplying warp.
template <class Kernel>
__device__ inline void consume(const Kernel& kernel, int warp, int lane) {
  Ring ring(Kernel::kStages);
  Item item;
  for (int turn = 0; kernel.barriers().claims().take(turn, item); ++turn)
    kernel.make_tile(item, turn, ring, warp / 4, warp, lane);
}

}  // namespace cadre::device::cuda::hopper
