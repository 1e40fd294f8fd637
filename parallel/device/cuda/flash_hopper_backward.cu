// dq, dk and dv in one kernel on sm_90a, for heads of 64: five products a tile instead of the seven of flash_hopper_dkv.cu
// and flash_hopper_dq.cu. A block makes all of a head of keys, 128 keys after the other, while the queries that see them
// pass by. So the sums of dq, which run over blocks of keys, are added by one block in one order, and bits repeat without
// blocks that wait for each other.
//
// Of four warpgroups two keep 64 keys each and make dk, dv and the gradients of the scores, transposed, which they leave in
// shared memory; the third turns these into dq; the fourth copies. The third is a tile behind the others, which so never
// wait for each other. What it has of dq goes to memory (that the L2 cache holds) through the copy engine, which adds
// there; the last keys that see a tile of queries, those on the diagonal, find the sum of all before and write dq.
//
// The weights are rounded to bf16 before the gradients of the scores are made of them, as they are for dv.
#include "parallel/device/cuda/flash_hopper_launch.h"

namespace cadre::device::cuda::hopper {
namespace {

template <int kHead>
struct Backward {
  static_assert(kHead == 64);  // sums of 128 columns do not fit into registers beside the rest
  static constexpr int kQueries = 64, kStages = 4;
  // In shared memory at a time: blocks of keys, gradients of scores, sums on their way to memory.
  static constexpr int kKept = 2, kGrads = 2, kSums = 2;
  static constexpr int kWarps = 12;  // that multiply
  static constexpr int kOwnBytes = kOwn * kHead * 2, kTileBytes = kQueries * kHead * 2,
                       kGradBytes = kOwn * kQueries * 2;
  static constexpr int kSumValues = kQueries * kHead, kSumBytes = kSumValues * 4;
  static constexpr int kStagesAt = kKept * 2 * kOwnBytes, kStageBytes = 2 * kTileBytes;
  static constexpr int kGradsAt = kStagesAt + kStages * kStageBytes;
  static constexpr int kSumAt = kGradsAt + kGrads * kGradBytes;
  // What is added to all scores, and to all gradients of weights, of a query: kBiasTerms numbers of bf16 each that add up to it, as
  // rows of a matrix of 16 by 64 queries whose other rows are 0. So products with a matrix of ones and zeros add them.
  static constexpr int kBiasBytes = 16 * kQueries * 2;
  static constexpr int kBiasAt = kSumAt + kSums * kSumBytes;
  static constexpr int kStagingAt = kBiasAt + kStages * kBiasBytes;
  static constexpr int kBarriersAt = kStagingAt + kConsumerWarps * kChunkBytes;
  static constexpr int kSharedBytes =
      kBarriersAt + 2 * (kKept + kStages + kGrads) * 8 + Claims<kWarps>::kBytes;

  const Params& p;
  uint32_t shared;

  __device__ uint32_t k_tile(int kept) const { return shared + kept * 2 * kOwnBytes; }
  __device__ uint32_t v_tile(int kept) const { return k_tile(kept) + kOwnBytes; }
  __device__ uint32_t q_tile(int stage) const { return shared + kStagesAt + stage * kStageBytes; }
  __device__ uint32_t dout_tile(int stage) const { return q_tile(stage) + kTileBytes; }
  __device__ uint32_t bias(int stage) const { return shared + kBiasAt + stage * kBiasBytes; }
  __device__ uint32_t grads(int slot) const { return shared + kGradsAt + slot * kGradBytes; }
  __device__ uint32_t staging(int warp) const { return shared + kStagingAt + warp * kChunkBytes; }

  // Pairs of barriers: what the first half says is there, all have read what the second half says.
  __device__ uint32_t barrier(int at) const { return shared + kBarriersAt + at * 8; }
  __device__ uint32_t kept_there(int kept) const { return barrier(kept); }
  __device__ uint32_t kept_read(int kept) const { return barrier(kKept + kept); }
  __device__ uint32_t there(int stage) const { return barrier(2 * kKept + stage); }
  __device__ uint32_t read(int stage) const { return barrier(2 * kKept + kStages + stage); }
  __device__ uint32_t grads_there(int slot) const { return barrier(2 * (kKept + kStages) + slot); }
  __device__ uint32_t grads_read(int slot) const { return barrier(2 * (kKept + kStages) + kGrads + slot); }
  __device__ Claims<kWarps> claims() const { return {barrier(2 * (kKept + kStages + kGrads))}; }

  // Of each thread before all meet.
  __device__ void clear(int thread) const {
    static_assert(kStages * kBiasBytes == kFourRoles * 16);
    ptx::store_shared(bias(0) + thread * 16, {0, 0, 0, 0});
    ptx::fence_async_proxy();
  }
  __device__ void init() const {
    for (int i = 0; i < kKept; ++i) {
      ptx::barrier_init(kept_there(i), 1);
      ptx::barrier_init(kept_read(i), kWarps);
    }
    for (int i = 0; i < kStages; ++i) {
      ptx::barrier_init(there(i), 1);
      ptx::barrier_init(read(i), kConsumerWarps);
    }
    for (int i = 0; i < kGrads; ++i) {
      ptx::barrier_init(grads_there(i), kConsumerWarps);
      ptx::barrier_init(grads_read(i), kWarps - kConsumerWarps);
    }
    claims().init();
  }

  // ---- What all roles count alike ----
  __device__ int blocks() const { return p.items.blocks(); }
  __device__ int group() const { return p.heads / p.kv_heads; }
  __device__ const Document* documents(int pair) const { return p.documents_of(pair / p.kv_heads); }
  __device__ Tiles tiles(int pair, int block) const {
    return queries_of_block<kQueries>(block, p.length, documents(pair));
  }
  __device__ Tiles tiles_of_half(int pair, int block, int half) const {
    return queries_of_half<kQueries>(block * kOwn + half * kHalf, p.length, documents(pair));
  }
  // What is the same in all lanes, so that the compiler may keep what follows from it in registers of the warp.
  __device__ static int uniform(int v) { return __shfl_sync(~0u, v, 0); }
  __device__ static Tiles uniform(const Tiles& t) { return {uniform(t.begin), uniform(t.end)}; }
  struct Turns {  // of a ring of `slots`
    int count = 0;
    __device__ int slot(int slots) const { return count % slots; }
    __device__ uint32_t phase(int slots) const { return count / slots & 1; }
  };

  // ---- The copying lane ----
  __device__ void produce() const {
    Turns kept;
    Ring ring(kStages);
    for (int turn = 0;; ++turn) {
      const int pair = atomicAdd(p.next, 1);
      const bool live = pair < p.items.pairs;
      claims().give(turn, {0, pair, {0, 0}, 0}, live);
      if (!live) return;
      for (int block = 0; block < blocks(); ++block, ++kept.count) copy_block(pair, block, kept, ring);
    }
  }
  __device__ void copy_block(int pair, int block, const Turns& kept, Ring& ring) const {
    const int sequence = pair / p.kv_heads, kv = pair % p.kv_heads, to = kept.slot(kKept);
    ptx::barrier_wait(kept_read(to), kept.phase(kKept) ^ 1);
    ptx::barrier_expect(kept_there(to), 2 * kOwnBytes);
    copy_rows<kHead, kOwn>(&p.own[0], kept_there(to), k_tile(to), kv, block * kOwn, sequence);
    copy_rows<kHead, kOwn>(&p.own[1], kept_there(to), v_tile(to), kv, block * kOwn, sequence);
    const Tiles all = tiles(pair, block);
    for (int head = kv * group(); head < (kv + 1) * group(); ++head) {
#pragma unroll 1  // the copying lane has few registers
      for (int tile = all.begin; tile < all.end; ++tile, ring.next()) {
        const int s = ring.stage;
        ptx::barrier_wait(read(s), ring.phase ^ 1);
        ptx::barrier_expect(there(s), kStageBytes + 2 * kTermBytes);
        copy_rows<kHead, kQueries>(&p.other[0], there(s), q_tile(s), head, tile * kQueries, sequence);
        copy_rows<kHead, kQueries>(&p.other[1], there(s), dout_tile(s), head, tile * kQueries, sequence);
        const __nv_bfloat16* const terms =
            p.bias + ((int64_t(sequence) * p.heads + head) * (p.padded / kQueries) + tile) *
                         (2 * kBiasTerms * kQueries);
        ptx::copy_bytes(terms, there(s), bias(s), kTermBytes);
        ptx::copy_bytes(terms + kBiasTerms * kQueries, there(s), bias(s) + 8 * kQueries * 2, kTermBytes);
      }
    }
  }

  // ---- The warpgroups that keep keys ----
  struct Keys {
    int first, row;  // of the warpgroup, and of the thread
    int query_edge;
    int end[2];     // of the documents of the thread's two keys
    uint32_t k, v;  // operands
    float scale;
    int lane, warp;
    uint32_t ones;  // of columns 2 (lane % 4) + {0, 1} of the matrix that adds kBiasTerms rows
  };
  __device__ void keep_keys(int warp, int lane) const {
    warp = uniform(warp);
    Turns kept, step;
    Ring ring(kStages);
    Item item;
    for (int turn = 0; claims().take(turn, item); ++turn)
      for (int block = 0; block < blocks(); ++block, ++kept.count)
        make_keys(uniform(item.pair), block, kept, ring, step, warp, lane);
  }
  // A tile that sees nothing of this warpgroup's keys.
  __device__ void pass(Ring& ring, Turns& step, int warp, int lane) const {
    ptx::barrier_wait(there(ring.stage), ring.phase);
    if (lane == 0) ptx::barrier_arrive(read(ring.stage));
    ring.next();
    const uint32_t none[kQueries / 4] = {};
    give_grads(none, step, warp, lane);
  }
  __device__ void make_keys(int pair, int block, const Turns& kept, Ring& ring, Turns& step, int warp,
                            int lane) const {
    const int half = warp / 4, from = kept.slot(kKept), sequence = pair / p.kv_heads, kv = pair % p.kv_heads;
    const Document* docs = documents(pair);
    const int first = block * kOwn + half * kHalf, warp_row = first + warp % 4 * 16,
              row = warp_row + lane / 4;
    Keys keys{first,
              row,
              uniform(query_edge(block, p.length, docs)),
              {p.length, p.length},
              uint32_t(descriptor(k_tile(from) + half * kHalf * 128)),
              uint32_t(descriptor(v_tile(from) + half * kHalf * 128)),
              p.scale * kLog2E,
              lane,
              warp,
              ones_of(lane)};
    if (docs != nullptr) {
      for (int h = 0; h < 2; ++h) keys.end[h] = docs[min(row + 8 * h, p.length - 1)].end;
    }
    const Tiles all = uniform(tiles(pair, block)), own = uniform(tiles_of_half(pair, block, half));
    float dk[kHead / 2], dv[kHead / 2];
    bool keep = false;
    ptx::barrier_wait(kept_there(from), kept.phase(kKept));
    for (int head = 0; head < group(); ++head) {
      int tile = all.begin;
      for (; tile < all.end && tile < own.begin; ++tile) pass(ring, step, warp, lane);
      if (tile < own.end) {
        make_tiles(keys, {tile, own.end}, ring, step, dk, dv, keep);
        tile = own.end;
        keep = true;
      }
      for (; tile < all.end; ++tile) pass(ring, step, warp, lane);
    }
    if (lane == 0) ptx::barrier_arrive(kept_read(from));
    const float one[2] = {1, 1}, factor[2] = {p.scale, p.scale};
    write_rows<kHead>(dk, factor, staging(warp), p.out[0], p.kv_heads, kv, sequence, p.length, warp_row,
                      lane);
    write_rows<kHead>(dv, one, staging(warp), p.out[1], p.kv_heads, kv, sequence, p.length, warp_row, lane);
  }
  // Tiles one after the other. Products of a tile run beside the arithmetic of the same and the next one: the gradients of its
  // weights, its part of dv, the scores of the next tile; then, while the weights of the next are made, its part of dk.
  // Nothing is under way when a tile begins, since the compiler takes all products in turn else.
  struct Tile {
    float ds[kQueries / 2], next[kQueries / 2];  // of weights; the next tile's scores
    uint32_t weights[kQueries / 4], grad[kQueries / 4];
  };
  __device__ void make_tiles(const Keys& keys, Tiles own, Ring& ring, Turns& step, float (&dk)[kHead / 2],
                             float (&dv)[kHead / 2], bool keep) const {
    Tile t;
    ptx::barrier_wait(there(ring.stage), ring.phase);
    ptx::wgmma_begin();
    products<kScores>(t.next, keys, keys.k, uniform(ring.stage));
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(t.next);
    weigh(t, keys, own.begin);
    for (int tile = own.begin; tile < own.end; ++tile, keep = true)
      make_tile(keys, tile, tile + 1 < own.end, ring, step, t, dk, dv, keep);
  }
  // What comes in are the tile's weights, what goes out those of the next one where there is one. Where not, scores are made
  // nevertheless: without a branch there the compiler keeps all sums where they are.
  __device__ void make_tile(const Keys& keys, int tile, bool more, Ring& ring, Turns& step, Tile& t,
                            float (&dk)[kHead / 2], float (&dv)[kHead / 2], bool keep) const {
    const int stage = uniform(ring.stage);
    ring.next();
    if (more) ptx::barrier_wait(there(ring.stage), ring.phase);
    ptx::wgmma_begin();
    products<kWeightGrads>(t.ds, keys, keys.v, stage);
    ptx::wgmma_commit();
    products(dv, t.weights, q_operand(stage) + kTileBytes / 16, keep);
    ptx::wgmma_commit();
    products<kScores>(t.next, keys, keys.k, more ? uniform(ring.stage) : stage);
    ptx::wgmma_commit();
    ptx::wgmma_wait<2>();
    ptx::wgmma_pin(t.ds);
#pragma unroll
    for (int i = 0; i < kQueries / 4; ++i)
      t.grad[i] = times(t.weights[i], pack(t.ds[2 * i], t.ds[2 * i + 1]));
    give_grads(t.grad, step, keys.warp, keys.lane);
    ptx::wgmma_begin();
    products(dk, t.grad, q_operand(stage), keep);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(t.next);
    ptx::wgmma_pin(t.weights);
    if (more) weigh(t, keys, tile + 1);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(dk);
    ptx::wgmma_pin(dv);
    ptx::wgmma_pin(t.grad);
    if (keys.lane == 0) ptx::barrier_arrive(read(stage));
  }
  // Operands as the lower half of their descriptors, which adds in units of 16 bytes: rows of 64 values, K-major.
  __device__ static uint64_t whole(uint32_t operand) {
    return descriptor(0) | operand;
  }
  __device__ uint32_t operand(int at) const {
    return ((shared & 0x3ffff) + uint32_t(at)) >> 4;
  }
  __device__ uint32_t q_operand(int stage) const {
    return operand(kStagesAt + stage * kStageBytes);
  }
  // sum (64 keys, 64 queries) = what is added to each query's + a b^T over the head, of q or dout.
  enum Which { kScores, kWeightGrads };
  template <Which kWhich>
  __device__ void products(float (&sum)[kQueries / 2], const Keys& keys, uint32_t a, int stage) const {
    const uint64_t added = whole(operand(kBiasAt + stage * kBiasBytes));
    if constexpr (kWhich == kScores) {
      ptx::wgmma(sum, keys.ones, keys.ones, 0, 0, added, 0);
    } else {
      ptx::wgmma(sum, 0, 0, keys.ones, keys.ones, added, 0);
    }
    const uint32_t b = q_operand(stage) + (kWhich == kScores ? 0 : kTileBytes / 16);
#pragma unroll
    for (int i = 0; i < kHead / 16; ++i) ptx::wgmma(sum, whole(a + i * 2), whole(b + i * 2), 1);
  }
  // sum (64 keys, head) (+)= a b over the queries.
  __device__ static void products(float (&sum)[kHead / 2], const uint32_t (&a)[kQueries / 4], uint32_t b,
                                  bool keep) {
#pragma unroll
    for (int i = 0; i < kQueries / 16; ++i)
      ptx::wgmma(sum, a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3], whole(b + i * 128), keep || i > 0);
  }
  __device__ static uint32_t ones_of(int lane) {
    const int column = lane % 4 * 2;
    return pack(column < kBiasTerms ? 1.f : 0.f, column + 1 < kBiasTerms ? 1.f : 0.f);
  }
  // Two products of bf16.
  __device__ static uint32_t times(uint32_t a, uint32_t b) {
    const __nv_bfloat162 v =
        __hmul2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
    return reinterpret_cast<const uint32_t&>(v);
  }
  // Weights of the tile whose scores came.
  __device__ void weigh(Tile& t, const Keys& keys, int tile) const {
    if (queries_need_mask<kQueries>(tile, keys.first, keys.query_edge)) {
      weigh<true>(t, keys, tile);
    } else {
      weigh<false>(t, keys, tile);
    }
    pack_weights(t.next, t.weights);
  }
  template <bool kMask>
  __device__ void weigh(Tile& t, const Keys& keys, int tile) const {
#pragma unroll
    for (int j = 0; j < kQueries / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float weight = ptx::exp2(t.next[j * 4 + e] * keys.scale);
        if constexpr (kMask) {
          const int query = tile * kQueries + j * 8 + keys.lane % 4 * 2 + (e & 1),
                    key = keys.row + (e >> 1) * 8;
          t.next[j * 4 + e] = seen_by(key, query, keys.end[e >> 1]) ? weight : 0.f;
        } else {
          t.next[j * 4 + e] = weight;
        }
      }
    }
  }
  // The warp's 16 keys, a line of 64 queries each.
  __device__ void give_grads(const uint32_t (&grad)[kQueries / 4], Turns& step, int warp, int lane) const {
    const int slot = step.slot(kGrads);
    ptx::barrier_wait(grads_read(slot), step.phase(kGrads) ^ 1);
    const uint32_t to = grads(slot) + warp * 16 * 128;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const uint32_t r[4] = {grad[4 * pair], grad[4 * pair + 1], grad[4 * pair + 2], grad[4 * pair + 3]};
      ptx::store_matrices(block_address(to, pair, lane), r);
    }
    ptx::fence_async_proxy();
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(grads_there(slot));
    ++step.count;
  }

  // ---- The warpgroup that makes dq; warp and thread within it ----
  __device__ void sum_queries(int warp, int thread) const {
    const int lane = thread % 32;
    Turns kept, step, sums;
    const float* latest = nullptr;  // what was added to last
    Item item;
    for (int turn = 0; claims().take(turn, item); ++turn) {
      int seen = 0;  // tiles below were seen by the block of keys before
      for (int block = 0; block < blocks(); ++block, ++kept.count) {
        const int from = kept.slot(kKept);
        const Tiles all = tiles(item.pair, block);
        ptx::barrier_wait(kept_there(from), kept.phase(kKept));
        for (int head = 0; head < group(); ++head) {
          for (int tile = all.begin; tile < all.end; ++tile, ++step.count) {
            float dq[kHead / 2];
            multiply(dq, k_tile(from), step, lane);
            add(dq, item.pair, head, tile, tile >= seen, tile < 2 * (block + 1), sums, latest, warp, thread);
          }
        }
        if (lane == 0) ptx::barrier_arrive(kept_read(from));
        seen = all.end;
      }
    }
  }
  // dq (64 queries, 64) = the transposed gradients of their scores times the block's keys.
  __device__ void multiply(float (&dq)[kHead / 2], uint32_t k, const Turns& step, int lane) const {
    const int slot = step.slot(kGrads);
    ptx::barrier_wait(grads_there(slot), step.phase(kGrads));
    ptx::wgmma_begin();
    ptx::wgmma_first<1, 1>(dq, descriptor(grads(slot)), descriptor(k));
#pragma unroll
    for (int i = 1; i < kOwn / 16; ++i)
      ptx::wgmma<1, 1>(dq, descriptor(grads(slot) + i * 2048), descriptor(k + i * 2048), 1);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(dq);
    if (lane == 0) ptx::barrier_arrive(grads_read(slot));
  }
  // first, last: of the blocks of keys that see the tile. A tile of sums lies in memory as the threads hold it.
  __device__ void add(float (&dq)[kHead / 2], int pair, int head, int tile, bool first, bool last,
                      Turns& turn, const float*& latest, int warp, int thread) const {
    float* const sums = p.sums + ((int64_t(blockIdx.x) * group() + head) * (p.padded / kQueries) + tile) *
                                     int64_t(kSumValues);
    // What was added to these sums before is done, and so is what went out of the room for the next ones.
    if (thread == 0) latest == sums ? ptx::wait_stores<0>() : ptx::wait_stores<1>();
    ptx::sync_warpgroup<1>();
    const uint32_t room = shared + kSumAt + turn.slot(kSums) * kSumBytes;
    if (!last) {
#pragma unroll
      for (int i = 0; i < kHead / 8; ++i)
        ptx::store_shared(room + (i * 128 + thread) * 16,
                          {__float_as_uint(dq[4 * i]), __float_as_uint(dq[4 * i + 1]),
                           __float_as_uint(dq[4 * i + 2]), __float_as_uint(dq[4 * i + 3])});
      ptx::fence_async_proxy();
      ptx::sync_warpgroup<1>();
      ++turn.count;
      latest = sums;
      if (thread != 0) return;
      if (first) {
        ptx::store_bytes(sums, room, kSumBytes);
      } else {
        ptx::add_floats(sums, room, kSumBytes);
      }
      ptx::commit_stores();
      return;
    }
    if (!first) {
#pragma unroll
      for (int i = 0; i < kHead / 8; ++i) {
        // From the L2 cache, where they were added.
        const float4 v = __ldcg(reinterpret_cast<const float4*>(sums) + i * 128 + thread);
        dq[4 * i] += v.x, dq[4 * i + 1] += v.y, dq[4 * i + 2] += v.z, dq[4 * i + 3] += v.w;
      }
    }
    const float factor[2] = {p.scale, p.scale};
    write_rows<kHead>(dq, factor, room + warp * kChunkBytes, p.out[2], p.heads,
                      pair % p.kv_heads * group() + head, pair / p.kv_heads, p.length,
                      tile * kQueries + warp * 16, thread % 32);
  }
};

}  // namespace

void launch_backward(const Params& p, int blocks, cudaStream_t stream) {
  launch_four_roles<Backward<64>>(p, blocks, stream);
}

}  // namespace cadre::device::cuda::hopper
