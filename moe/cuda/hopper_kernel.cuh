// One persistent kernel for all forms (sm_90a). A block has three warpgroups: one feeds shared memory through
// the copy engine, two multiply, each for 64 of the tile's 128 rows, and write their part out. The two
// consumers are never synchronised with each other: whichever is ahead writes its results while the other one
// keeps the tensor cores busy, and the next tile's data is being fetched meanwhile.
#pragma once

#include <cassert>
#include <stdexcept>

#include "moe/cuda/group_walk.h"
#include "moe/cuda/hopper_epilogue.cuh"
#include "moe/cuda/hopper_gemm.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/hopper_ptx.h"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {

inline constexpr int kBytesA = kTileM * kTileK * 2, kBytesB = kTileN * kTileK * 2;
inline constexpr int kStageBytes = kBytesA + kBytesB;
inline constexpr int kConsumerWarps = 8, kThreads = 384;
inline constexpr int kClaims = 2;           // tiles that are known ahead
inline constexpr int kBoxBytes = 64 * 128;  // 64 rows of 64 values: the unit of MN-major tiles

// One stage of the ring after the other, with the parity of its barriers.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  __device__ void skip(int count) {
    const int to = stage + count;
    phase ^= uint32_t(to / kStages) & 1;
    stage = to % kStages;
  }
};

template <Form kForm, int kCluster>
struct Block {
  // Groups cut the rows of the output; else rows are what is summed over.
  static constexpr bool kRagged = kForm != Form::kWgrad && kForm != Form::kDenseWgrads;
  // Products of generation, whose blocks come while those of the kernel before end.
  static constexpr bool kBehind = kForm == Form::kForward || kForm == Form::kSwiglu;
  static constexpr bool kTransposeA = !kRagged;
  static constexpr bool kTransposeB = kForm != Form::kForward && kForm != Form::kSwiglu;
  // Shared memory: the ring, pieces for the epilogue of each warp, barriers, claims.
  // The epilogue reads, and wants room for it.
  static constexpr bool kReads = kForm == Form::kSwigluBackward || kForm == Form::kDenseSwigluBackward;
  static constexpr int kStages = kReads ? 3 : 4, kPieces = kReads ? kBackwardPieces : 2;
  static constexpr int kPiecesAt = kStages * kStageBytes;
  static constexpr int kBarriersAt = kPiecesAt + kConsumerWarps * kPieces * kChunkBytes;
  static constexpr int kClaimsAt = (kBarriersAt + 3 * kStages * 8 + 15) / 16 * 16;
  static constexpr int kSharedBytes = kClaimsAt + kClaims * (16 + 2 * 8);

  const GemmParams& p;
  uint32_t shared;  // base address
  uint32_t rank;    // in the cluster

  __device__ uint32_t tile_a(int stage) const { return shared + stage * kStageBytes; }
  __device__ uint32_t tile_b(int stage) const { return tile_a(stage) + kBytesA; }
  __device__ uint32_t staging(int warp) const { return shared + kPiecesAt + warp * kPieces * kChunkBytes; }
  __device__ uint32_t barrier(int kind, int stage) const {
    return shared + kBarriersAt + (kind * kStages + stage) * 8;
  }
  __device__ uint32_t full(int stage) const { return barrier(0, stage); }   // the tile is there
  __device__ uint32_t empty(int stage) const { return barrier(1, stage); }  // nobody reads it any more
  __device__ uint32_t raw(int stage) const { return barrier(2, stage); }  // there, but its tail is not masked

  // Claims of kWgrad: where the place of a tile is written, and the barriers for written and read.
  __device__ uint32_t claim(int slot) const { return shared + kClaimsAt + slot * 16; }
  __device__ uint32_t claim_there(int slot) const { return shared + kClaimsAt + kClaims * 16 + slot * 8; }
  __device__ uint32_t claim_read(int slot) const { return claim_there(kClaims + slot); }

  __device__ void init_barriers() const {
    // The copying warp reads claims too, and the masking one where there is any.
    constexpr int kReaders = kConsumerWarps + (kForm == Form::kWgrad ? 2 : 1);
    for (int s = 0; s < kClaims; ++s) {
      ptx::barrier_init(claim_there(s), 1);
      ptx::barrier_init(claim_read(s), kReaders * kCluster);
    }
    for (int s = 0; s < kStages; ++s) {
      ptx::barrier_init(full(s), 1);
      ptx::barrier_init(empty(s), kConsumerWarps * kCluster);
      ptx::barrier_init(raw(s), 1);
    }
    ptx::fence_barrier_init();
  }

  // Calls body(place) for the tiles of this block. `warps`: whole warps call, else one lane.
  template <bool kWarps, class Body>
  __device__ void for_tiles(const Body& body) const {
    TilePlace place;
    if constexpr (kRagged) {
      GroupWalk<kTileM * kCluster> walk(p.offsets, p.ends, p.groups, p.rows, p.n_tiles);
      int turn = 0;
      for (int64_t tile = first_tile<kWarps>(turn); walk.seek(tile, place);
           tile = tile_after<kWarps>(tile, turn)) {
        place.m = place.m * kCluster + int(rank);
        body(place);
      }
    } else if constexpr (kForm == Form::kDenseWgrads) {
      const int tiles = p.products[p.groups - 1].tiles_end;
      int turn = 0;
      for (int64_t tile = first_tile<kWarps>(turn); tile < tiles; tile = tile_after<kWarps>(tile, turn))
        body(place_in_products(int(tile)));
    } else {
      for (int turn = 0; read_claim<kWarps>(turn, place); ++turn) body(place);
    }
  }

  // Of kDenseWgrads, whose tiles all cost the same. The shorter side of a matrix comes first: where a wave of blocks ends
  // inside a product, both waves read the operand along that side, and of the longer one a part each.
  __device__ TilePlace place_in_products(int tile) const {
    int which = 0, first = 0;
    while (tile >= p.products[which].tiles_end) first = p.products[which++].tiles_end;
    const int m_tiles = p.products[which].m_tiles, n_tiles = p.products[which].n_tiles;
    const bool tall = m_tiles > n_tiles;
    const PanelPlace at = tall ? place_in_panels(tile - first, n_tiles, m_tiles)
                               : place_in_panels(tile - first, m_tiles, n_tiles);
    return {which, (tall ? at.n : at.m) * kCluster + int(rank), tall ? at.m : at.n, 0, p.rows};
  }

  // ---- Claims of the other forms, where collectives hold multiprocessors: a block that had to wait for one would otherwise begin
  // its share when the others are done with theirs. A number beyond the last tile ends a block. ----
  template <bool kWarps>
  __device__ int64_t first_tile(int& turn) const {
    return p.claims == nullptr ? blockIdx.x / kCluster : read_tile<kWarps>(turn++);
  }
  template <bool kWarps>
  __device__ int64_t tile_after(int64_t tile, int& turn) const {
    return p.claims == nullptr ? tile + gridDim.x / kCluster : read_tile<kWarps>(turn++);
  }
  template <bool kWarps>
  __device__ int64_t read_tile(int turn) const {
    const int slot = turn % kClaims;
    ptx::barrier_acquire(claim_there(slot), turn / kClaims & 1);
    const uint32_t tile = ptx::load_shared(claim(slot)).x;
    if constexpr (kWarps) __syncwarp();
    if (!kWarps || threadIdx.x % 32 == 0) ptx::barrier_arrive_at(claim_read(slot), 0);
    return tile;
  }
  __device__ bool is_tile(int64_t tile, GroupWalk<kTileM * kCluster>& walk) const {
    TilePlace place;
    return kForm == Form::kDenseWgrads ? tile < p.products[p.groups - 1].tiles_end : walk.seek(tile, place);
  }
  __device__ void claim_tiles() const {
    GroupWalk<kTileM * kCluster> walk(kRagged ? p.offsets : nullptr, p.ends, p.groups, p.rows, p.n_tiles);
    bool more = true;
    for (int turn = 0; more; ++turn) {
      const int slot = turn % kClaims;
      ptx::barrier_wait(claim_read(slot), (turn / kClaims & 1) ^ 1);
      const int tile = atomicAdd(p.claims, 1);
      more = is_tile(tile, walk);
      for (int block = 0; block < kCluster; ++block) {
        ptx::store_shared_at(claim(slot), block, {uint32_t(tile), 0, 0, 0});
        ptx::barrier_release_at(claim_there(slot), block);
      }
    }
    // The last one leaves the counters as they were.
    if (atomicAdd(p.claims + 1, 1) == int(gridDim.x) / kCluster - 1) {
      p.claims[0] = 0;
      p.claims[1] = 0;
    }
  }

  // ---- Claims of kWgrad. A tile costs what its group has rows, which may differ a hundredfold: blocks take the
  // next tile when they are free, the longest first. Which block makes a tile does not change its sums. A lane of
  // its own claims, since three reads of memory that wait for each other are longer than the ring is ahead. ----
  __device__ void make_claims() const {
    for (int turn = 0; make_claim(turn); ++turn) {
    }
  }
  __device__ bool make_claim(int turn) const {
    const int per_group = p.m_tiles * p.n_tiles, slot = turn % kClaims;
    ptx::barrier_wait(claim_read(slot), (turn / kClaims & 1) ^ 1);
    const int tile = atomicAdd(p.next, 1), at = tile / per_group;
    TilePlace place{-1, 0, 0, 0, 0};
    if (at < p.groups) {
      const int group = p.order[at];
      const int64_t begin = p.offsets[group], rows = p.offsets[group + 1] - begin;
      // Empty groups are the last ones; with nothing to add they are left out.
      if (rows > 0 || !p.accumulate) {
        const PanelPlace local = place_in_panels(tile - at * per_group, p.m_tiles, p.n_tiles);
        place = {group, local.m * kCluster, local.n, begin, rows};
      }
    }
    for (int block = 0; block < kCluster; ++block) {
      ptx::store_shared_at(claim(slot), block,
                           {uint32_t(place.group), uint32_t(place.m + block) | uint32_t(place.n) << 16,
                            uint32_t(place.begin), uint32_t(place.rows)});
      ptx::barrier_release_at(claim_there(slot), block);
    }
    return place.group >= 0;
  }
  template <bool kWarps>
  __device__ bool read_claim(int turn, TilePlace& place) const {
    const int slot = turn % kClaims;
    ptx::barrier_acquire(claim_there(slot), turn / kClaims & 1);
    const uint4 v = ptx::load_shared(claim(slot));
    if constexpr (kWarps) __syncwarp();
    if (!kWarps || threadIdx.x % 32 == 0) ptx::barrier_arrive_at(claim_read(slot), 0);
    place = {int(v.x), int(v.y & 0xffff), int(v.y >> 16), int64_t(v.z), int64_t(v.w)};
    return place.group >= 0;
  }
  __device__ int k_blocks(const TilePlace& place) const {
    if (!kRagged) return int((place.rows + kTileK - 1) / kTileK);
    return p.k_blocks;
  }

  // ---- The copying lane ----
  __device__ void copy_b(const CUtensorMap* map, uint32_t bar, uint32_t to, int x, int y, int z) const {
    if constexpr (kCluster == 1) {
      ptx::copy_box(map, bar, to, x, y, z);
    } else {
      ptx::copy_box_to_cluster(map, bar, to, x, y, z, uint16_t((1 << kCluster) - 1));
    }
  }
  __device__ void copy_stage(const TilePlace& place, int kb, int stage, uint32_t bar) const {
    int term = 0, first = 0;
    if constexpr (kForm == Form::kDgradSum) {
      term = int(kb >= p.term_end[0]) + int(kb >= p.term_end[1]);
      if (term > 0) first = p.term_end[term - 1];
    }
    if constexpr (kForm == Form::kDenseWgrads) term = place.group;
    const int k0 = (kb - first) * kTileK;
    const int row = int(place.begin) + (kRagged ? place.m * kTileM : k0);
    if constexpr (kTransposeA) {
      for (int j = 0; j < 2; ++j)
        ptx::copy_box(&p.a[term], bar, tile_a(stage) + j * kBoxBytes, place.m * kTileM + j * 64, row, 0);
    } else {
      ptx::copy_box(&p.a[term], bar, tile_a(stage), k0, row, 0);
    }
    // The halves of b: every block of the cluster needs both and loads its share.
    for (int half = kCluster == 1 ? 0 : int(rank); half < (kCluster == 1 ? 2 : int(rank) + 1); ++half) {
      const uint32_t to = tile_b(stage) + half * (kBytesB / 2);
      if constexpr (kForm == Form::kForward) {
        copy_b(&p.b[0], bar, to, k0, place.n * kTileN + half * 128, place.group);
      } else if constexpr (kForm == Form::kSwiglu) {
        copy_b(&p.b[half], bar, to, k0, place.n * 128, place.group);
      } else {
        for (int j = 0; j < 2; ++j)
          copy_b(&p.b[term], bar, to + j * kBoxBytes, place.n * kTileN + half * 128 + j * 64,
                 kRagged ? k0 : row, kRagged ? place.group : 0);
      }
    }
  }
  // What the epilogue will read later, its last two chunks, comes into the L2 cache meanwhile.
  __device__ void prefetch_for_epilogue(const TilePlace& place) const {
    if constexpr (kReads) {
      for (int j = 2; j < kTileN / 64; ++j)
        for (const CUtensorMap& map : p.read)
          ptx::prefetch_box(&map, place.n * kTileN + j * 64, int(place.begin) + place.m * kTileM, 0);
    }
  }
  // Before the kernel before is done, so that memory does not rest meanwhile: the first weights of this block, if every
  // group is one tile. Where that is wrong the cache holds something for nothing.
  __device__ void prefetch_weights() const {
    static_assert(kBehind && kCluster == 1);
    const int group = int(blockIdx.x) / p.n_tiles, n = int(blockIdx.x) - group * p.n_tiles;
    if (!p.small_groups || group >= p.groups) return;
    for (int kb = 0; kb < min(kBlocksAhead, p.k_blocks); ++kb)
      for (int half = 0; half < 2; ++half) {
        if constexpr (kForm == Form::kForward) {
          ptx::prefetch_box(&p.b[0], kb * kTileK, n * kTileN + half * 128, group);
        } else {
          ptx::prefetch_box(&p.b[half], kb * kTileK, n * 128, group);
        }
      }
  }
  __device__ void produce() const {
    Ring<kStages> ring;
    for_tiles<false>([&](const TilePlace& place) {
      const int blocks = k_blocks(place);
      prefetch_for_epilogue(place);
      for (int kb = 0; kb < blocks; ++kb, ring.next()) {
        ptx::barrier_wait(empty(ring.stage), ring.phase ^ 1);
        const bool tail = kForm == Form::kWgrad && kb == blocks - 1 && place.rows % kTileK != 0;
        const uint32_t bar = tail ? raw(ring.stage) : full(ring.stage);
        ptx::barrier_expect(bar, kStageBytes);
        copy_stage(place, kb, ring.stage, bar);
      }
    });
  }

  // ---- The masking warp of kWgrad ----
  // The last rows of a group's contraction belong to the next group, or to nobody: they become zeros in both
  // operands, since either may hold anything, also NaN. (Those of kDenseWgrads are outside the tensors, which the copy
  // engine reads as zeros.)
  __device__ void mask_tails(int lane) const {
    Ring<kStages> ring;
    uint32_t phases = 0;  // of raw, a bit for each stage
    for_tiles<true>([&](const TilePlace& place) {
      const int blocks = k_blocks(place), valid = int(place.rows % kTileK);
      if (blocks == 0) return;
      ring.skip(blocks - 1);
      if (valid != 0) {
        ptx::barrier_wait(raw(ring.stage), phases >> ring.stage & 1);
        phases ^= 1u << ring.stage;
        const int units = (kTileK - valid) * 8;
        for (int box = 0; box < kStageBytes / kBoxBytes; ++box)
          for (int i = lane; i < units; i += 32)
            ptx::store_shared(tile_a(ring.stage) + box * kBoxBytes + valid * 128 + i * 16, {0, 0, 0, 0});
        ptx::fence_async_proxy();
        __syncwarp();
        if (lane == 0) ptx::barrier_arrive(full(ring.stage));
      }
      ring.next();
    });
  }

  // ---- A multiplying warpgroup ----
  // Shared memory descriptor of a 128-byte swizzled operand: 8 rows of 128 bytes follow each other at 1024
  // bytes; for an MN-major operand the next 64 of its first dimension are one box further.
  __device__ static uint64_t descriptor(uint32_t address, bool transposed) {
    const uint64_t leading = transposed ? kBoxBytes : 16;
    return uint64_t((address & 0x3ffff) >> 4) | (leading >> 4) << 16 | uint64_t(1024 >> 4) << 32 |
           uint64_t(1) << 62;
  }
  __device__ void multiply(float (&d)[128], int stage, int warpgroup, bool keep) const {
    // 16 of the contraction: 32 bytes along a row, or 16 rows of 128 bytes.
    constexpr uint64_t kStepA = (kTransposeA ? 2048 : 32) >> 4, kStepB = (kTransposeB ? 2048 : 32) >> 4;
    const uint64_t a = descriptor(tile_a(stage) + warpgroup * kBoxBytes, kTransposeA);
    const uint64_t b = descriptor(tile_b(stage), kTransposeB);
#pragma unroll
    for (int k = 0; k < kTileK / 16; ++k)
      ptx::wgmma<kTransposeA, kTransposeB>(d, a + k * kStepA, b + k * kStepB, keep || k > 0);
  }
  __device__ void release(int stage, int lane) const {
    if constexpr (kCluster == 1) {
      if (lane == 0) ptx::barrier_arrive(empty(stage));
    } else {
      if (lane < kCluster) ptx::barrier_arrive_at(empty(stage), lane);
    }
  }
  __device__ void consume(int warpgroup, int warp, int lane) const {
    Ring<kStages> ring;
    for_tiles<true>([&](const TilePlace& place) {
      float d[128];
      const int blocks = k_blocks(place);
      if constexpr (kReads) {
        const GateUp reads = gate_up(place, warpgroup, warp);
        reads.fetch(0, lane);
        reads.fetch(1, lane);
      }
      if constexpr (kForm == Form::kWgrad) {
        if (blocks == 0) {  // an empty group, whose gradient is written as zeros
#pragma unroll
          for (int i = 0; i < 128; ++i) d[i] = 0;
          write_out(d, place, warpgroup, warp, lane);
          return;
        }
      }
      ptx::wgmma_pin(d);
      int previous = 0;
      for (int kb = 0; kb < blocks; ++kb, ring.next()) {
        ptx::barrier_wait(full(ring.stage), ring.phase);
        ptx::wgmma_begin();
        multiply(d, ring.stage, warpgroup, kb > 0);
        ptx::wgmma_commit();
        // The product before this one is done: its stage is free.
        ptx::wgmma_wait<1>();
        if (kb > 0) release(previous, lane);
        previous = ring.stage;
      }
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(d);
      release(previous, lane);
      write_out(d, place, warpgroup, warp, lane);
    });
  }

  // The first of the warp's 16 rows, in the group's matrix.
  __device__ static int first_row(const TilePlace& place, int warpgroup, int warp) {
    return place.m * kTileM + warpgroup * 64 + (warp & 3) * 16;
  }
  __device__ WarpRows rows_of(__nv_bfloat16* data, const TilePlace& place, int first) const {
    return {data + (place.begin + first) * p.n, int(p.n), int(min(place.rows - first, int64_t(16)))};
  }
  __device__ GateUp gate_up(const TilePlace& place, int warpgroup, int warp) const {
    const int first = first_row(place, warpgroup, warp);
    return {rows_of(p.gate, place, first), rows_of(p.up, place, first), staging(warp), place.n * kTileN,
            int(p.n)};
  }
  // Of a weight gradient.
  struct Matrix {
    __nv_bfloat16* out;
    int64_t m, n;
  };
  __device__ Matrix matrix_of(const TilePlace& place) const {
    if constexpr (kForm == Form::kDenseWgrads) {
      const DenseWgrad& product = p.products[place.group];
      return {product.out, product.m, product.n};
    } else {
      return {p.out + place.group * p.m * p.n, p.m, p.n};
    }
  }
  __device__ void write_out(const float (&d)[128], const TilePlace& place, int warpgroup, int warp,
                            int lane) const {
    const int first = first_row(place, warpgroup, warp);
    const uint32_t stage = staging(warp);
    const int columns = int(p.n), column = place.n * kTileN;
    if constexpr (!kRagged) {
      const Matrix to = matrix_of(place);
      const WarpRows out{to.out + first * to.n, int(to.n), int(min(to.m - first, int64_t(16)))};
      if (p.accumulate) {
        epilogue_accumulate(d, stage, out, column, int(to.n), lane);
      } else {
        epilogue_plain(d, stage, out, column, int(to.n), lane);
      }
      return;
    }
    const int64_t row = place.begin + first;
    const int count = int(min(place.rows - first, int64_t(16)));
    auto rows = [&](__nv_bfloat16* data) { return rows_of(data, place, first); };
    if constexpr (kForm == Form::kSwiglu) {
      epilogue_swiglu(d, stage, rows(p.gate), rows(p.up), rows(p.out), column / 2, columns, lane);
    } else if constexpr (kForm == Form::kSwigluBackward) {
      const int r = lane / 4;
      const float weight[2] = {r < count ? p.weight[row + r] : 0.f,
                               r + 8 < count ? p.weight[row + r + 8] : 0.f};
      float dots[2] = {0, 0};
      epilogue_swiglu_backward<true>(d, gate_up(place, warpgroup, warp), rows(p.out), weight, lane, dots);
      for (int h = 0; h < 2; ++h) {
        dots[h] += __shfl_xor_sync(~0u, dots[h], 1);
        dots[h] += __shfl_xor_sync(~0u, dots[h], 2);
        if (lane % 4 == 0 && r + 8 * h < count) p.partial[place.n * p.rows + row + r + 8 * h] = dots[h];
      }
    } else if constexpr (kForm == Form::kDenseSwigluBackward) {
      float none[2];
      epilogue_swiglu_backward<false>(d, gate_up(place, warpgroup, warp), {}, {1.f, 1.f}, lane, none);
    } else if (kForm == Form::kDgrad && p.accumulate) {
      epilogue_accumulate(d, stage, rows(p.out), column, columns, lane);
    } else {
      epilogue_plain(d, stage, rows(p.out), column, columns, lane);
    }
  }
};

template <Form kForm, int kCluster>
__global__ void __launch_bounds__(kThreads, 1) hopper_gemm(const __grid_constant__ GemmParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Block<kForm, kCluster> block{params, ptx::shared_address(memory),
                                     kCluster == 1 ? 0 : ptx::block_in_cluster()};
  constexpr bool kBehind = Block<kForm, kCluster>::kBehind;
  if (threadIdx.x == 0) block.init_barriers();
  if constexpr (kBehind) {
    if (warp == kConsumerWarps && lane == 0) block.prefetch_weights();
  }
  if constexpr (kCluster == 1) {
    __syncthreads();
  } else {
    ptx::cluster_sync();
  }
  if constexpr (kBehind) {
    device::cuda::wait_for_kernel_before();
    device::cuda::let_next_come();
  }
  if (warpgroup == 2) {
    ptx::give_registers<40>();
    if (warp == kConsumerWarps && lane == 0) block.produce();
    if (kForm == Form::kWgrad && warp == kConsumerWarps + 1) block.mask_tails(lane);
    if (warp == kConsumerWarps + 2 && lane == 0 && block.rank == 0) {
      if constexpr (kForm == Form::kWgrad) {
        block.make_claims();
      } else if (params.claims != nullptr) {
        block.claim_tiles();
      }
    }
  } else {
    ptx::take_registers<232>();
    block.consume(warpgroup, warp, lane);
  }
  // A block must not end while another one still copies into it or arrives at its barriers.
  if constexpr (kCluster > 1) {
    __syncwarp();
    ptx::cluster_sync();
  }
#endif
}

template <Form kForm, int kCluster>
void launch_hopper(const GemmParams& params, int blocks, cudaStream_t stream) {
  const auto kernel = hopper_gemm<kForm, kCluster>;
  constexpr int kSharedBytes = Block<kForm, kCluster>::kSharedBytes;
  assert(params.claims == nullptr || kForm != Form::kWgrad);
  device::cuda::check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  constexpr bool kBehind = Block<kForm, kCluster>::kBehind;
  static_assert(!kBehind || kCluster == 1);
  if constexpr (kCluster == 1) {
    device::cuda::launch_with(kSharedBytes, kBehind && params.small_groups, stream, kernel, unsigned(blocks),
                              kThreads, params);
  } else {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {kCluster, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(blocks / kCluster * kCluster));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kSharedBytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    device::cuda::check(cudaLaunchKernelEx(&config, kernel, params));
  }
}

}  // namespace cadre::moe::cuda
