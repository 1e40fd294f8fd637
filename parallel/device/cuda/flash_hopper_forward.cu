// The forward pass on sm_90a. The scores of the next tile are multiplied while the weights of the last one meet their
// values, and both while the softmax between them runs.
#include "parallel/device/cuda/flash_hopper_launch.h"

namespace cadre::device::cuda::hopper {
namespace {

template <int kHead>
struct Forward {
  static constexpr int kKeys = 128, kStages = 2;
  static constexpr int kOwnBytes = kOwn * kHead * 2, kTileBytes = kKeys * kHead * 2;
  static constexpr int kStagingAt = kOwnBytes + 2 * kStages * kTileBytes;
  static constexpr int kBarriersAt = kStagingAt + kConsumerWarps * kChunkBytes;
  using Shared = Barriers<kStages, 2>;
  static constexpr int kSharedBytes = kBarriersAt + Shared::kBytes;

  const Params& p;
  uint32_t shared;

  __device__ uint32_t k_tile(int stage) const { return shared + kOwnBytes + stage * kTileBytes; }
  __device__ uint32_t v_tile(int stage) const { return k_tile(kStages + stage); }
  __device__ Shared barriers() const { return {shared + kBarriersAt}; }
  __device__ uint32_t q_there() const { return barriers().own_there(); }
  __device__ uint32_t q_read() const { return barriers().own_read(); }
  __device__ uint32_t k_there(int stage) const { return barriers().there(stage, 0); }
  __device__ uint32_t k_read(int stage) const { return barriers().read(stage, 0); }
  __device__ uint32_t v_there(int stage) const { return barriers().there(stage, 1); }
  __device__ uint32_t v_read(int stage) const { return barriers().read(stage, 1); }

  __device__ bool claim(Item& item) const { return claim_queries<kKeys>(p, item); }
  __device__ void copy(const Item& item, Ring& ring) const {
    const int sequence = item.pair / p.heads, head = item.pair % p.heads;
    const int kv = head / (p.heads / p.kv_heads);
    ptx::barrier_expect(q_there(), kOwnBytes);
    copy_rows<kHead, kOwn>(&p.own[0], q_there(), shared, head, item.block * kOwn, sequence);
    for (int tile = item.tiles.end - 1; tile >= item.tiles.begin; --tile, ring.next()) {
      const int s = ring.stage;
      ptx::barrier_wait(k_read(s), ring.phase ^ 1);
      ptx::barrier_expect(k_there(s), kTileBytes);
      copy_rows<kHead, kKeys>(&p.other[0], k_there(s), k_tile(s), kv, tile * kKeys, sequence);
      ptx::barrier_wait(v_read(s), ring.phase ^ 1);
      ptx::barrier_expect(v_there(s), kTileBytes);
      copy_rows<kHead, kKeys>(&p.other[1], v_there(s), v_tile(s), kv, tile * kKeys, sequence);
    }
  }

  // Of the two rows of a thread; `largest` in units of the scores.
  struct Softmax {
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

    // Turns scores into weights relative to the new maximum; factor is what earlier sums are worth now. Every row
    // sees itself in the first tile, so that its maximum is finite.
    __device__ void update(float (&s)[kKeys / 2], float scale, float (&factor)[2]) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float now = largest[half];
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j)
          now = fmaxf(now, fmaxf(s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]));
        now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
        now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
        factor[half] = exp2f((largest[half] - now) * scale);
        largest[half] = now;
        const float base = now * scale;
        float added = 0;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = half * 2; e < half * 2 + 2; ++e) {
            s[j * 4 + e] = exp2f(fmaf(s[j * 4 + e], scale, -base));
            added += s[j * 4 + e];
          }
        }
        sum[half] = sum[half] * factor[half] + added;
      }
    }
  };
  // row: the thread's first one, whose document starts at start[0]; the other is 8 below.
  __device__ void hide_unseen(float (&s)[kKeys / 2], int row, const int (&start)[2], int key,
                              int lane) const {
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int at = key + j * 8 + lane % 4 * 2 + (e & 1);
        if (!sees(row + (e >> 1) * 8, at, start[e >> 1])) s[j * 4 + e] = -INFINITY;
      }
    }
  }
  __device__ void release(uint32_t bar, int lane) const {
    if (lane == 0) ptx::barrier_arrive(bar);
  }

  __device__ void make_tile(const Item& item, int turn, Ring& ring, int warpgroup, int warp, int lane) const {
    const int sequence = item.pair / p.heads, head = item.pair % p.heads;
    const int first = item.block * kOwn + warpgroup * kHalf, warp_row = first + warp % 4 * 16,
              row = warp_row + lane / 4;
    const uint32_t q = shared + warpgroup * 64 * 128;
    const float scale = p.scale * kLog2E;
    const Document* documents = p.documents_of(sequence);
    int start[2] = {0, 0};
    if (documents != nullptr) {
      for (int h = 0; h < 2; ++h) start[h] = documents[min(row + 8 * h, p.length - 1)].begin;
    }
    const auto mask = [&](float(&s)[kKeys / 2], int tile) {
      if (keys_need_mask<kKeys>(tile, first, item.edge)) hide_unseen(s, row, start, tile * kKeys, lane);
    };
    float o[kHead / 2], s[kKeys / 2], factor[2];
    uint32_t weights[kKeys / 4];
    Softmax softmax;
    // Both warpgroups begin with the same tile: their rows lie in the same kKeys keys. Tiles before `own.begin` hold
    // documents that only the other one's queries see.
    const Tiles own = keys_of_half<kKeys>(first, p.length, documents);
    int tile = item.tiles.end - 1, before = 0;

    ptx::barrier_wait(q_there(), turn & 1);
    ptx::barrier_wait(k_there(ring.stage), ring.phase);
    ptx::wgmma_begin();
    score_product<kHead, kOwn, kKeys>(s, q, k_tile(ring.stage));
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(s);
    release(k_read(ring.stage), lane);
    mask(s, tile);
    softmax.update(s, scale, factor);
    pack_weights(s, weights);
    bool keep = false;
    uint32_t before_phase = ring.phase;
    before = ring.stage;
    ring.next();
    while (--tile >= own.begin) {
      ptx::barrier_wait(k_there(ring.stage), ring.phase);
      ptx::barrier_wait(v_there(before), before_phase);  // asked for before that k: no wait of its own
      ptx::wgmma_pin(o);
      ptx::wgmma_begin();
      score_product<kHead, kOwn, kKeys>(s, q, k_tile(ring.stage));
      ptx::wgmma_commit();
      weighted_sum<kKeys>(o, weights, v_tile(before), keep);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(s);
      release(k_read(ring.stage), lane);
      mask(s, tile);
      softmax.update(s, scale, factor);
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(o);
      ptx::wgmma_pin(weights);
      release(v_read(before), lane);
#pragma unroll
      for (int i = 0; i < kHead / 2; ++i) o[i] *= factor[i / 2 % 2];
      pack_weights(s, weights);
      keep = true;
      before = ring.stage;
      before_phase = ring.phase;
      ring.next();
    }
    release(q_read(), lane);
    ptx::barrier_wait(v_there(before), before_phase);
    ptx::wgmma_pin(o);
    ptx::wgmma_begin();
    weighted_sum<kKeys>(o, weights, v_tile(before), keep);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(o);
    release(v_read(before), lane);
    for (; tile >= item.tiles.begin; --tile, ring.next()) {
      ptx::barrier_wait(k_there(ring.stage), ring.phase);
      release(k_read(ring.stage), lane);
      ptx::barrier_wait(v_there(ring.stage), ring.phase);
      release(v_read(ring.stage), lane);
    }

    float inverse[2];
    for (int h = 0; h < 2; ++h) {
      float sum = softmax.sum[h];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      inverse[h] = 1 / sum;
      if (lane % 4 == 0 && row + 8 * h < p.length)
        p.lse[(int64_t(sequence) * p.length + row + 8 * h) * p.heads + head] =
            (softmax.largest[h] * scale + log2f(sum)) * kLn2;
    }
    write_rows<kHead>(o, inverse, shared + kStagingAt + warp * kChunkBytes, p.out[0], p.heads, head, sequence,
                      p.length, warp_row, lane);
  }
};

}  // namespace

template <int kHead>
void launch_forward(const Params& p, cudaStream_t stream) {
  launch<Forward<kHead>>(p, stream);
}
template void launch_forward<64>(const Params&, cudaStream_t);
template void launch_forward<128>(const Params&, cudaStream_t);

}  // namespace cadre::device::cuda::hopper
