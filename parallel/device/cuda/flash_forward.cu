// The forward pass: a block keeps 128 queries of a head, keys and values pass by in tiles of 64, the next tile
// on its way while one is worked on.
#include <cmath>

#include "parallel/device/cuda/flash.cuh"
#include "parallel/device/cuda/flash.h"
#include "parallel/device/cuda/flash_launch.cuh"

namespace cadre::device::cuda {
namespace flash {
namespace {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Running maximum (in scaled powers of two) and sum of the two rows of a thread.
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  // Turns scores into weights relative to the new maximum; factor is what earlier sums are worth now.
  __device__ void update(Scores& scores, float scale, float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = largest[half];
#pragma unroll
      for (int n = 0; n < kOther / 8; ++n)
        now = fmaxf(now, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]) * scale);
      now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
      now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
      const float base = now == -INFINITY ? 0 : now;  // the row has seen no key yet
      factor[half] = exp2f(largest[half] - base);
      largest[half] = now;
      float added = 0;
#pragma unroll
      for (int n = 0; n < kOther / 8; ++n) {
#pragma unroll
        for (int e = half * 2; e < half * 2 + 2; ++e) {
          scores[n][e] = exp2f(fmaf(scores[n][e], scale, -base));
          added += scores[n][e];
        }
      }
      sum[half] = sum[half] * factor[half] + added;
    }
  }
};

// query: the thread's first row; the other is 8 below.
__device__ void hide_unseen(Scores& scores, const Mask& mask, int query, int key, int length) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < kOther / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = query + e / 2 * 8, j = key + n * 8 + lane % 4 * 2 + e % 2;
      bool seen = j <= i + mask.past;
      if (mask.segment != nullptr && seen && i < length) seen = mask.segment[i] == mask.segment[j];
      if (!seen) scores[n][e] = -INFINITY;
    }
  }
}

template <int kHead>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(Params p) {
  extern __shared__ __align__(16) __nv_bfloat16 memory[];
  constexpr int kTile = kOther * kStride<kHead>;
  __nv_bfloat16 *q = memory, *k = q + kOwn * kStride<kHead>, *v = k + 2 * kTile;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int head = int(blockIdx.y), sequence = int(blockIdx.z), keys = p.past + p.length;
  const int first = (int(gridDim.x) - 1 - int(blockIdx.x)) * kOwn;  // long rows start first
  const int64_t q_stride = int64_t(p.heads) * kHead, k_stride = int64_t(p.kv_heads) * kHead;
  const int64_t q_at = (int64_t(sequence) * p.length * p.heads + head) * kHead;
  const int64_t k_at = (int64_t(sequence) * keys * p.kv_heads + head / (p.heads / p.kv_heads)) * kHead;
  const Mask mask(p, sequence);
  const int tiles = (min(first + kOwn + p.past, keys) + kOther - 1) / kOther;
  uint8_t* visible = reinterpret_cast<uint8_t*>(v + 2 * kTile);
  find_visible(visible, tiles, [&](int tile) { return mask.tiles(first, kOwn, tile * kOther, kOther); });
  const auto fetch = [&](int tile, int stage) {
    copy_tile<kHead, kOther>(k + stage * kTile, p.k + k_at, k_stride, tile * kOther, keys);
    copy_tile<kHead, kOther>(v + stage * kTile, p.v + k_at, k_stride, tile * kOther, keys);
  };

  copy_tile<kHead, kOwn>(q, p.q + q_at, q_stride, first, p.length);
  int tile = next_visible(visible, 0, tiles), stage = 0;
  fetch(tile, 0);
  commit();
  float out[kHead / 8][4] = {};
  Softmax softmax;
  while (tile < tiles) {
    const int next = next_visible(visible, tile + 1, tiles);
    if (next < tiles) fetch(next, stage ^ 1);
    commit();
    wait_for_copies<1>();
    __syncthreads();
    Scores scores;
    score_product<kHead>(scores, q + warp * 16 * kStride<kHead>, k + stage * kTile);
    if (visible[tile] == kSome)
      hide_unseen(scores, mask, first + warp * 16 + lane / 4, tile * kOther, p.length);
    float factor[2];
    softmax.update(scores, p.scale * kLog2E, factor);
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[d][e] *= factor[e / 2];
    }
    weighted_sum<kHead>(out, scores, v + stage * kTile);
    __syncthreads();  // the stage is free for the tile after the next
    stage ^= 1;
    tile = next;
  }
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    inverse[half] = 1 / sum;
    const int row = first + warp * 16 + lane / 4 + half * 8;
    if (lane % 4 == 0 && row < p.length)
      p.lse[(int64_t(sequence) * p.length + row) * p.heads + head] =
          (softmax.largest[half] + log2f(sum)) * kLn2;
  }
  write_rows<kHead>(out, inverse, p.out + q_at, q_stride, first + warp * 16, p.length);
}

template <int kHead>
struct Forward {
  static void launch(Queue& queue, const AttentionShape& s, const Params& p) {
    const size_t bytes = size_t(kOwn + 4 * kOther) * kStride<kHead> * sizeof(__nv_bfloat16) +
                         size_t(visible_bytes(s.num_past + s.seq_len));
    const dim3 grid(unsigned(ceil_div(s.seq_len, kOwn)), unsigned(s.num_heads), unsigned(s.num_sequences));
    launch_with_shared(forward_kernel<kHead>, grid, bytes, queue, p);
  }
};

}  // namespace
}  // namespace flash

// sm_86 and sm_89, which run sm_80's code, have shared memory for heads of 32 and 64 alone.
bool flash_supports(const AttentionShape& s) {
  static const int kLimit = [] {
    int device = 0, most = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return most;
  }();
  return (s.head_dim == 32 || s.head_dim == 64 || s.head_dim == 96 || s.head_dim == 128) &&
         flash::shared_bytes(s.head_dim, s.num_past + s.seq_len) <= kLimit;
}

int64_t flash_ranges(const AttentionShape& s) {
  return s.num_sequences * ceil_div(s.seq_len, flash::kGroup);
}

void flash_attention(Queue& queue, const AttentionShape& s, View<const bf16, 3> q, View<const bf16, 3> k,
                     View<const bf16, 3> v, View<const int32_t, 1> segment, View<bf16, 3> out,
                     View<float, 2> lse, void* ranges) {
  flash::Params p = flash::params(queue, s, q, k, v, segment, ranges);
  p.out = raw(out);
  p.lse = lse.data();
  flash::by_head<flash::Forward>(queue, s, p);
}

}  // namespace cadre::device::cuda
