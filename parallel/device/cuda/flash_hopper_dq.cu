// dq on sm_90a: a block keeps 128 queries and the gradients of their outputs; the keys and values that they see pass by.
#include "parallel/device/cuda/flash_hopper_launch.h"

namespace cadre::device::cuda::hopper {
namespace {

template <int kHead>
struct Dq {
  static constexpr int kKeys = 64, kStages = kHead == 128 ? 3 : 4;
  static constexpr int kOwnBytes = kOwn * kHead * 2, kTileBytes = kKeys * kHead * 2;
  static constexpr int kStagesAt = 2 * kOwnBytes, kStageBytes = 2 * kTileBytes;
  static constexpr int kStagingAt = kStagesAt + kStages * kStageBytes;
  static constexpr int kBarriersAt = kStagingAt + kConsumerWarps * kChunkBytes;
  using Shared = Barriers<kStages, 1>;
  static constexpr int kSharedBytes = kBarriersAt + Shared::kBytes;

  const Params& p;
  uint32_t shared;

  __device__ uint32_t q_tile() const { return shared; }
  __device__ uint32_t dout_tile() const { return shared + kOwnBytes; }
  __device__ uint32_t k_tile(int stage) const { return shared + kStagesAt + stage * kStageBytes; }
  __device__ uint32_t v_tile(int stage) const { return k_tile(stage) + kTileBytes; }
  __device__ Shared barriers() const { return {shared + kBarriersAt}; }

  __device__ bool claim(Item& item) const { return claim_queries<kKeys>(p, item); }
  __device__ void copy(const Item& item, Ring& ring) const {
    const int sequence = item.pair / p.heads, head = item.pair % p.heads;
    const int kv = head / (p.heads / p.kv_heads);
    ptx::barrier_expect(barriers().own_there(), 2 * kOwnBytes);
    copy_rows<kHead, kOwn>(&p.own[0], barriers().own_there(), q_tile(), head, item.block * kOwn, sequence);
    copy_rows<kHead, kOwn>(&p.own[1], barriers().own_there(), dout_tile(), head, item.block * kOwn, sequence);
    for (int tile = item.tiles.end - 1; tile >= item.tiles.begin; --tile, ring.next()) {
      const int s = ring.stage;
      ptx::barrier_wait(barriers().read(s), ring.phase ^ 1);
      ptx::barrier_expect(barriers().there(s), kStageBytes);
      copy_rows<kHead, kKeys>(&p.other[0], barriers().there(s), k_tile(s), kv, tile * kKeys, sequence);
      copy_rows<kHead, kKeys>(&p.other[1], barriers().there(s), v_tile(s), kv, tile * kKeys, sequence);
    }
  }

  __device__ void make_tile(const Item& item, int turn, Ring& ring, int warpgroup, int warp, int lane) const {
    const int sequence = item.pair / p.heads, head = item.pair % p.heads;
    const int first = item.block * kOwn + warpgroup * kHalf, warp_row = first + warp % 4 * 16,
              row = warp_row + lane / 4;
    const uint32_t q = q_tile() + warpgroup * 64 * 128, dout = dout_tile() + warpgroup * 64 * 128;
    const float scale = p.scale * kLog2E;
    const Document* documents = p.documents_of(sequence);
    int start[2] = {0, 0};
    float lse[2], delta[2];
    for (int h = 0; h < 2; ++h) {
      const int at = min(row + 8 * h, p.length - 1);
      if (documents != nullptr) start[h] = documents[at].begin;
      const float2 stat = p.stats[(int64_t(sequence) * p.heads + head) * p.padded + at];
      lse[h] = stat.x;
      delta[h] = stat.y;
    }
    float dq[kHead / 2], s[kKeys / 2], ds[kKeys / 2];
    uint32_t grads[kKeys / 4];
    // Tiles outside lie behind these queries, or hold documents that only the other warpgroup's see.
    const Tiles own = keys_of_half<kKeys>(first, p.length, documents);
    const auto pass = [&] {
      ptx::barrier_wait(barriers().there(ring.stage), ring.phase);
      if (lane == 0) ptx::barrier_arrive(barriers().read(ring.stage));
      ring.next();
    };
    int tile = item.tiles.end - 1;
    bool keep = false;
    int before = 0;

    ptx::barrier_wait(barriers().own_there(), turn & 1);
    for (; tile >= own.end; --tile) pass();
    for (; tile >= own.begin; --tile) {
      const int stage = ring.stage, key = tile * kKeys;
      ptx::barrier_wait(barriers().there(stage), ring.phase);
      ptx::wgmma_begin();
      score_product<kHead, kOwn, kKeys>(s, q, k_tile(stage));
      ptx::wgmma_commit();
      score_product<kHead, kOwn, kKeys>(ds, dout, v_tile(stage));
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(s);
      ptx::wgmma_pin(grads);
      if (keep && lane == 0) ptx::barrier_arrive(barriers().read(before));
      const bool all = !keys_need_mask<kKeys>(tile, first, item.edge);
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int at = key + j * 8 + lane % 4 * 2 + (e & 1), h = e >> 1;
          const bool seen = all || sees(row + h * 8, at, start[h]);
          s[j * 4 + e] = seen ? exp2f(fmaf(s[j * 4 + e], scale, -lse[h])) : 0.f;
        }
      }
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(ds);
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) ds[i] = s[i] * (ds[i] - delta[i / 2 % 2]);
      pack_weights(ds, grads);
      ptx::wgmma_pin(dq);
      ptx::wgmma_begin();
      weighted_sum<kKeys>(dq, grads, k_tile(stage), keep);
      ptx::wgmma_commit();
      keep = true;
      before = stage;
      ring.next();
    }
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(dq);
    ptx::wgmma_pin(grads);
    if (lane == 0) {
      ptx::barrier_arrive(barriers().read(before));
      ptx::barrier_arrive(barriers().own_read());
    }
    for (; tile >= item.tiles.begin; --tile) pass();
    const float factor[2] = {p.scale, p.scale};
    write_rows<kHead>(dq, factor, shared + kStagingAt + warp * kChunkBytes, p.out[0], p.heads, head, sequence,
                      p.length, warp_row, lane);
  }
};

}  // namespace

template <int kHead>
void launch_dq(const Params& p, cudaStream_t stream) {
  launch<Dq<kHead>>(p, stream);
}
template void launch_dq<64>(const Params&, cudaStream_t);
template void launch_dq<128>(const Params&, cudaStream_t);

}  // namespace cadre::device::cuda::hopper
