// The backward pass. For dq a block keeps 128 queries and keys pass by; for dk and dv it keeps 128 keys and the
// queries of all heads of the group pass by, one head after the other. Both compute the weights again from the
// saved log-sum-exp.
#include <cmath>

#include "parallel/device/cuda/flash.cuh"
#include "parallel/device/cuda/flash.h"
#include "parallel/device/cuda/flash_launch.cuh"

namespace cadre::device::cuda {
namespace flash {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// weights and their gradient (in `grads`, before the scale) from scores and from the gradient of the weights.
__device__ void differentiate(Scores& scores, Scores& grads, int n, int e, float scale, float lse,
                              float delta, bool seen) {
  const float weight = seen ? exp2f(fmaf(scores[n][e], scale, -lse)) : 0;
  scores[n][e] = weight;
  grads[n][e] = weight * (grads[n][e] - delta);
}

template <int kHead>
__global__ void __launch_bounds__(kThreads, 1) dq_kernel(Params p) {
  extern __shared__ __align__(16) __nv_bfloat16 memory[];
  constexpr int kTile = kOther * kStride<kHead>, kOwnTile = kOwn * kStride<kHead>;
  __nv_bfloat16 *q = memory, *dout = q + kOwnTile, *k = dout + kOwnTile, *v = k + 2 * kTile;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int head = int(blockIdx.y), sequence = int(blockIdx.z);
  const int first = (int(gridDim.x) - 1 - int(blockIdx.x)) * kOwn, row = first + warp * 16 + lane / 4;
  const int64_t q_stride = int64_t(p.heads) * kHead, k_stride = int64_t(p.kv_heads) * kHead;
  const int64_t q_at = (int64_t(sequence) * p.length * p.heads + head) * kHead;
  const int64_t k_at = (int64_t(sequence) * p.length * p.kv_heads + head / (p.heads / p.kv_heads)) * kHead;
  const Mask mask(p, sequence);
  const int tiles = (min(first + kOwn, p.length) + kOther - 1) / kOther;
  uint8_t* visible = reinterpret_cast<uint8_t*>(v + 2 * kTile);
  find_visible(visible, tiles, [&](int tile) { return mask.tiles(first, kOwn, tile * kOther, kOther); });
  const auto fetch = [&](int tile, int stage) {
    copy_tile<kHead, kOther>(k + stage * kTile, p.k + k_at, k_stride, tile * kOther, p.length);
    copy_tile<kHead, kOther>(v + stage * kTile, p.v + k_at, k_stride, tile * kOther, p.length);
  };
  float lse[2], delta[2];
  int segment[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = min(row + half * 8, p.length - 1);
    const int64_t stat = (int64_t(sequence) * p.length + at) * p.heads + head;
    lse[half] = p.saved_lse[stat] * kLog2E;
    delta[half] = p.delta[stat];
    if (mask.segment != nullptr) segment[half] = mask.segment[at];
  }

  copy_tile<kHead, kOwn>(q, p.q + q_at, q_stride, first, p.length);
  copy_tile<kHead, kOwn>(dout, p.dout + q_at, q_stride, first, p.length);
  int tile = next_visible(visible, 0, tiles), stage = 0;
  fetch(tile, 0);
  commit();
  float dq[kHead / 8][4] = {};
  while (tile < tiles) {
    const int next = next_visible(visible, tile + 1, tiles);
    if (next < tiles) fetch(next, stage ^ 1);
    commit();
    wait_for_copies<1>();
    __syncthreads();
    Scores scores, grads;
    score_product<kHead>(scores, q + warp * 16 * kStride<kHead>, k + stage * kTile);
    score_product<kHead>(grads, dout + warp * 16 * kStride<kHead>, v + stage * kTile);
    const bool all = visible[tile] == kAll;
#pragma unroll
    for (int n = 0; n < kOther / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int j = tile * kOther + n * 8 + lane % 4 * 2 + e % 2;
        bool seen = all || j <= row + e / 2 * 8;
        if (!all && mask.segment != nullptr && seen)
          seen = segment[e / 2] == mask.segment[min(j, p.length - 1)];
        differentiate(scores, grads, n, e, p.scale * kLog2E, lse[e / 2], delta[e / 2], seen);
      }
    }
    weighted_sum<kHead>(dq, grads, k + stage * kTile);
    __syncthreads();
    stage ^= 1;
    tile = next;
  }
  const float factor[2] = {p.scale, p.scale};
  write_rows<kHead>(dq, factor, p.dq + q_at, q_stride, first + warp * 16, p.length);
}

template <int kHead>
__global__ void __launch_bounds__(kThreads, 1) dkv_kernel(Params p) {
  extern __shared__ __align__(16) __nv_bfloat16 memory[];
  constexpr int kTile = kOther * kStride<kHead>, kOwnTile = kOwn * kStride<kHead>;
  __nv_bfloat16 *k = memory, *v = k + kOwnTile, *q = v + kOwnTile, *dout = q + 2 * kTile;
  float *lse = reinterpret_cast<float*>(dout + 2 * kTile), *delta = lse + 2 * kOther;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int kv = int(blockIdx.y), sequence = int(blockIdx.z), group = p.heads / p.kv_heads;
  const int first = int(blockIdx.x) * kOwn, row = first + warp * 16 + lane / 4;
  const int64_t q_stride = int64_t(p.heads) * kHead, k_stride = int64_t(p.kv_heads) * kHead;
  const int64_t k_at = (int64_t(sequence) * p.length * p.kv_heads + kv) * kHead;
  const Mask mask(p, sequence);
  const int begin = first / kOther * kOther;  // the first tile of queries that may see these keys
  // Steps count tiles of queries over all heads of the group.
  const int tiles = (p.length - begin + kOther - 1) / kOther, end = group * tiles;
  const auto query_of = [&](int step) { return begin + step % tiles * kOther; };
  uint8_t* visible = reinterpret_cast<uint8_t*>(delta + 2 * kOther);
  find_visible(visible, tiles, [&](int tile) { return mask.tiles(query_of(tile), kOther, first, kOwn); });
  const auto next_seen = [&](int step) {
    while (step < end && visible[step % tiles] == kNone) ++step;
    return step;
  };
  const auto fetch = [&](int step, int stage) {
    const int head = kv * group + step / tiles, query = query_of(step);
    const int64_t q_at = (int64_t(sequence) * p.length * p.heads + head) * kHead;
    copy_tile<kHead, kOther>(q + stage * kTile, p.q + q_at, q_stride, query, p.length);
    copy_tile<kHead, kOther>(dout + stage * kTile, p.dout + q_at, q_stride, query, p.length);
    if (int(threadIdx.x) < kOther) {
      const int at = query + int(threadIdx.x);
      const int64_t stat = (int64_t(sequence) * p.length + at) * p.heads + head;
      // exp2 of minus infinity: a query past the end weighs nothing.
      lse[stage * kOther + threadIdx.x] = at < p.length ? p.saved_lse[stat] * kLog2E : INFINITY;
      delta[stage * kOther + threadIdx.x] = at < p.length ? p.delta[stat] : 0;
    }
  };
  int segment[2] = {};
  if (mask.segment != nullptr) {
    segment[0] = mask.segment[min(row, p.length - 1)];
    segment[1] = mask.segment[min(row + 8, p.length - 1)];
  }

  copy_tile<kHead, kOwn>(k, p.k + k_at, k_stride, first, p.length);
  copy_tile<kHead, kOwn>(v, p.v + k_at, k_stride, first, p.length);
  int step = next_seen(0), stage = 0;
  if (step < end) fetch(step, 0);
  commit();
  float dk[kHead / 8][4] = {}, dv[kHead / 8][4] = {};
  while (step < end) {
    const int next = next_seen(step + 1);
    if (next < end) fetch(next, stage ^ 1);
    commit();
    wait_for_copies<1>();
    __syncthreads();
    Scores scores, grads;
    score_product<kHead>(scores, k + warp * 16 * kStride<kHead>, q + stage * kTile);
    score_product<kHead>(grads, v + warp * 16 * kStride<kHead>, dout + stage * kTile);
    const int query = query_of(step);
    const bool all = visible[step % tiles] == kAll;
#pragma unroll
    for (int n = 0; n < kOther / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int col = n * 8 + lane % 4 * 2 + e % 2, i = query + col;
        bool seen = all || row + e / 2 * 8 <= i;
        if (!all && mask.segment != nullptr && seen)
          seen = segment[e / 2] == mask.segment[min(i, p.length - 1)];
        differentiate(scores, grads, n, e, p.scale * kLog2E, lse[stage * kOther + col],
                      delta[stage * kOther + col], seen);
      }
    }
    weighted_sum<kHead>(dv, scores, dout + stage * kTile);
    weighted_sum<kHead>(dk, grads, q + stage * kTile);
    __syncthreads();
    stage ^= 1;
    step = next;
  }
  const float one[2] = {1, 1}, factor[2] = {p.scale, p.scale};
  write_rows<kHead>(dv, one, p.dv + k_at, k_stride, first + warp * 16, p.length);
  write_rows<kHead>(dk, factor, p.dk + k_at, k_stride, first + warp * 16, p.length);
}

template <int kHead>
struct Backward {
  static void launch(Queue& queue, const AttentionShape& s, const Params& p) {
    const auto bytes = size_t(shared_bytes(kHead, s.seq_len));
    const auto tiles = unsigned(ceil_div(s.seq_len, kOwn)), sequences = unsigned(s.num_sequences);
    launch_with_shared(dkv_kernel<kHead>, dim3(tiles, unsigned(s.num_kv_heads), sequences), bytes, queue, p);
    launch_with_shared(dq_kernel<kHead>, dim3(tiles, unsigned(s.num_heads), sequences), bytes, queue, p);
  }
};

}  // namespace
}  // namespace flash

void flash_attention_backward(Queue& queue, const AttentionShape& s, View<const bf16, 3> dout,
                              View<const bf16, 3> q, View<const bf16, 3> k, View<const bf16, 3> v,
                              View<const int32_t, 1> segment, View<const float, 2> lse, const float* delta,
                              View<bf16, 3> dq, View<bf16, 3> dk, View<bf16, 3> dv, void* ranges) {
  flash::Params p = flash::params(queue, s, q, k, v, segment, ranges);
  p.dout = raw(dout);
  p.saved_lse = lse.data();
  p.delta = delta;
  p.dq = raw(dq);
  p.dk = raw(dk);
  p.dv = raw(dv);
  flash::by_head<flash::Backward>(queue, s, p);
}

}  // namespace cadre::device::cuda
