// dk and dv on sm_90a: a block keeps 128 keys and values, and the queries of all heads of the group that see them pass
// by, one head after the other. Scores are made transposed, so that the weights and their gradients are already where
// the next products want their left operand: in registers.
#include "parallel/device/cuda/flash_hopper_launch.h"

namespace cadre::device::cuda::hopper {
namespace {

template <int kHead>
struct Dkv {
  static constexpr int kQueries = 64, kStages = kHead == 128 ? 3 : 4;
  static constexpr int kOwnBytes = kOwn * kHead * 2, kTileBytes = kQueries * kHead * 2,
                       kStatBytes = kQueries * 8;
  static constexpr int kStagesAt = 2 * kOwnBytes, kStageBytes = 2 * kTileBytes;
  static constexpr int kStatsAt = kStagesAt + kStages * kStageBytes;
  static constexpr int kStagingAt = kStatsAt + kStages * kStatBytes;
  static constexpr int kBarriersAt = kStagingAt + kConsumerWarps * kChunkBytes;
  using Shared = Barriers<kStages, 1>;
  static constexpr int kSharedBytes = kBarriersAt + Shared::kBytes;

  const Params& p;
  uint32_t shared;

  __device__ uint32_t k_tile() const { return shared; }
  __device__ uint32_t v_tile() const { return shared + kOwnBytes; }
  __device__ uint32_t q_tile(int stage) const { return shared + kStagesAt + stage * kStageBytes; }
  __device__ uint32_t dout_tile(int stage) const { return q_tile(stage) + kTileBytes; }
  __device__ uint32_t stats(int stage) const { return shared + kStatsAt + stage * kStatBytes; }
  __device__ Shared barriers() const { return {shared + kBarriersAt}; }

  __device__ bool claim(Item& item) const { return claim_keys<kQueries>(p, item); }
  __device__ void copy(const Item& item, Ring& ring) const {
    const int group = p.heads / p.kv_heads;
    const int sequence = item.pair / p.kv_heads, kv = item.pair % p.kv_heads;
    ptx::barrier_expect(barriers().own_there(), 2 * kOwnBytes);
    copy_rows<kHead, kOwn>(&p.own[0], barriers().own_there(), k_tile(), kv, item.block * kOwn, sequence);
    copy_rows<kHead, kOwn>(&p.own[1], barriers().own_there(), v_tile(), kv, item.block * kOwn, sequence);
    for (int head = kv * group; head < (kv + 1) * group; ++head) {
#pragma unroll 1  // the copying lane has 40 registers
      for (int tile = item.tiles.begin; tile < item.tiles.end; ++tile, ring.next()) {
        const int s = ring.stage;
        ptx::barrier_wait(barriers().read(s), ring.phase ^ 1);
        ptx::barrier_expect(barriers().there(s), kStageBytes + kStatBytes);
        copy_rows<kHead, kQueries>(&p.other[0], barriers().there(s), q_tile(s), head, tile * kQueries,
                                   sequence);
        copy_rows<kHead, kQueries>(&p.other[1], barriers().there(s), dout_tile(s), head, tile * kQueries,
                                   sequence);
        ptx::copy_bytes(p.stats + (int64_t(sequence) * p.heads + head) * p.padded + tile * kQueries,
                        barriers().there(s), stats(s), kStatBytes);
      }
    }
  }

  // Log-sum-exp and delta of the two queries of columns 8 j + 2 (lane % 4) + {0, 1}.
  __device__ float4 stats_of(int stage, int j, int lane) const {
    const uint4 v = ptx::load_shared(stats(stage) + (j * 8 + lane % 4 * 2) * 8);
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
  }
  // Scores become weights. row: the thread's first key, whose document ends before end[0].
  template <bool kMask>
  __device__ void weigh(float (&s)[kQueries / 2], float scale, int stage, int lane, int row, int query,
                        const int (&end)[2]) const {
#pragma unroll
    for (int j = 0; j < kQueries / 8; ++j) {
      const float4 stat = stats_of(stage, j, lane);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float weight = exp2f(fmaf(s[j * 4 + e], scale, -(e & 1 ? stat.z : stat.x)));
        if constexpr (kMask) {
          const int at = query + j * 8 + lane % 4 * 2 + (e & 1), key = row + (e >> 1) * 8;
          s[j * 4 + e] = seen_by(key, at, end[e >> 1]) ? weight : 0.f;
        } else {
          s[j * 4 + e] = weight;
        }
      }
    }
  }

  __device__ void make_tile(const Item& item, int turn, Ring& ring, int warpgroup, int warp, int lane) const {
    const int sequence = item.pair / p.kv_heads, kv = item.pair % p.kv_heads;
    const int first = item.block * kOwn + warpgroup * kHalf, warp_row = first + warp % 4 * 16,
              row = warp_row + lane / 4;
    const uint32_t k = k_tile() + warpgroup * 64 * 128, v = v_tile() + warpgroup * 64 * 128;
    const float scale = p.scale * kLog2E;
    const Document* documents = p.documents_of(sequence);
    int end[2] = {p.length, p.length};
    if (documents != nullptr) {
      for (int h = 0; h < 2; ++h) end[h] = documents[min(row + 8 * h, p.length - 1)].end;
    }
    float dk[kHead / 2], dv[kHead / 2], s[kQueries / 2], ds[kQueries / 2];
    uint32_t weights[kQueries / 4], grads[kQueries / 4];
    const int steps = (item.tiles.end - item.tiles.begin) * (p.heads / p.kv_heads);
    const Tiles own = queries_of_half<kQueries>(first, p.length, documents);
    bool keep = false;

    ptx::barrier_wait(barriers().own_there(), turn & 1);
    for (int step = 0, next = item.tiles.begin; step < steps; ++step) {
      const int stage = ring.stage, tile = next, query = tile * kQueries;
      if (++next == item.tiles.end) next = item.tiles.begin;
      ptx::barrier_wait(barriers().there(stage), ring.phase);
      ring.next();
      if (tile < own.begin || tile >= own.end) {  // of the other warpgroup only
        if (lane == 0) ptx::barrier_arrive(barriers().read(stage));
        continue;
      }
      ptx::wgmma_begin();
      score_product<kHead, kOwn, kQueries>(s, k, q_tile(stage));
      ptx::wgmma_commit();
      score_product<kHead, kOwn, kQueries>(ds, v, dout_tile(stage));
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(s);
      if (queries_need_mask<kQueries>(tile, first, item.edge)) {
        weigh<true>(s, scale, stage, lane, row, query, end);
      } else {
        weigh<false>(s, scale, stage, lane, row, query, end);
      }
      pack_weights(s, weights);
      ptx::wgmma_pin(dv);
      ptx::wgmma_begin();
      weighted_sum<kQueries>(dv, weights, dout_tile(stage), keep);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(ds);
#pragma unroll
      for (int j = 0; j < kQueries / 8; ++j) {
        const float4 stat = stats_of(stage, j, lane);
#pragma unroll
        for (int e = 0; e < 4; ++e)
          ds[j * 4 + e] = s[j * 4 + e] * (ds[j * 4 + e] - (e & 1 ? stat.w : stat.y));
      }
      pack_weights(ds, grads);
      ptx::wgmma_pin(dk);
      ptx::wgmma_begin();
      weighted_sum<kQueries>(dk, grads, q_tile(stage), keep);
      ptx::wgmma_commit();
      // Registers do not suffice for the next scores beside these products; the other warpgroup works meanwhile.
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(dk);
      ptx::wgmma_pin(dv);
      ptx::wgmma_pin(weights);
      ptx::wgmma_pin(grads);
      if (lane == 0) ptx::barrier_arrive(barriers().read(stage));
      keep = true;
    }
    if (lane == 0) ptx::barrier_arrive(barriers().own_read());
    const uint32_t staging = shared + kStagingAt + warp * kChunkBytes;
    const float one[2] = {1, 1}, factor[2] = {p.scale, p.scale};
    write_rows<kHead>(dk, factor, staging, p.out[0], p.kv_heads, kv, sequence, p.length, warp_row, lane);
    write_rows<kHead>(dv, one, staging, p.out[1], p.kv_heads, kv, sequence, p.length, warp_row, lane);
  }
};

}  // namespace

template <int kHead>
void launch_dkv(const Params& p, cudaStream_t stream) {
  launch<Dkv<kHead>>(p, stream);
}
template void launch_dkv<64>(const Params&, cudaStream_t);
template void launch_dkv<128>(const Params&, cudaStream_t);

}  // namespace cadre::device::cuda::hopper
