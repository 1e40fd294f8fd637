// Scores, choice and gates of each token in one launch, a warp for each token, which keeps its row in registers: the
// operations of scores.cu and choice.cu in their order, so that results have the same bits. Those serve where there are
// groups, or more experts.
#include <cfloat>

#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::launch_behind;
using device::cuda::let_next_come;
using device::cuda::wait_for_kernel_before;

constexpr int kWarps = 4;

struct Routed {
  const float *logits, *bias;           // (T, E), (E); bias null: 0
  float *scores, *probs, *gates, *lse;  // (T, E) each, (T)
  const int32_t* segment;               // (T)
  int32_t* choice;                      // (T, k)
  int64_t tokens;
  int experts, k;
  bool sigmoid, share;
  float scale;
};

// Of the experts lane + 32 i of a row; bits of `chosen` are the i.
template <int kEach>
struct LaneOfRow {
  int experts, lane;
  float score[kEach];
  uint32_t chosen = 0;

  __device__ bool has(int i) const { return lane + 32 * i < experts; }
  __device__ void store(float* row, int i, float v) const {
    if (has(i)) row[lane + 32 * i] = v;
  }

  __device__ void make_scores(const Routed& r, int64_t t) {
    float z[kEach], top = -FLT_MAX, sum = 0, sigmoids = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) z[i] = has(i) ? r.logits[t * experts + lane + 32 * i] : 0.f;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (has(i)) top = fmaxf(top, z[i]);
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (has(i)) sum += expf(z[i] - top);
    sum = warp_sum(sum);
    if (lane == 0) r.lse[t] = top + logf(sum);
    float* const probs = r.probs + t * experts;
    if (!r.sigmoid) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) store(probs, i, score[i] = expf(z[i] - top) / sum);
      return;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      score[i] = 1 / (1 + expf(-z[i]));
      if (has(i)) sigmoids += score[i];
    }
    const float factor = 1 / fmaxf(warp_sum(sigmoids), FLT_MIN);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      store(r.scores + t * experts, i, score[i]);
      store(probs, i, score[i] * factor);
    }
  }

  __device__ void choose(const Routed& r) {
    uint32_t key[kEach];  // 0: not to be chosen, or not any more
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      key[i] = has(i) ? rising_key(ordered(r.bias ? score[i] + r.bias[lane + 32 * i] : score[i])) : 0;
    for (int j = 0; j < r.k; ++j) {
      uint32_t best = 0;
      unsigned winner = INT_MAX;
#pragma unroll
      for (int i = 0; i < kEach; ++i) best = max(best, key[i]);
      best = __reduce_max_sync(~0u, best);
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i)
        if (key[i] == best) winner = unsigned(lane + 32 * i);
      winner = __reduce_min_sync(~0u, winner);
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        if (unsigned(lane + 32 * i) == winner) key[i] = 0, chosen |= 1u << i;
    }
  }

  // The chosen in rising order, and their gates.
  __device__ void write(const Routed& r, int64_t t) const {
    float factor = r.scale, sum = kShareEpsilon;
    int before = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool mine = chosen >> i & 1;
      const uint32_t all = __ballot_sync(~0u, mine);
      if (mine) r.choice[t * r.k + before + __popc(all & ((1u << lane) - 1))] = lane + 32 * i;
      before += __popc(all);
      for (uint32_t left = all; r.share && left != 0; left &= left - 1)
        sum += __shfl_sync(~0u, score[i], __ffs(int(left)) - 1);
    }
    if (r.share) factor /= sum;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      store(r.gates + t * experts, i, chosen >> i & 1 ? factor * score[i] : 0.f);
  }
};

template <int kEach>
__global__ void __launch_bounds__(32 * kWarps) route_kernel(Routed r) {
  const int64_t t = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  wait_for_kernel_before();
  let_next_come();
  if (t >= r.tokens) return;
  LaneOfRow<kEach> row{};
  row.experts = r.experts;
  row.lane = lane;
  if (r.segment[t] < 0) {
    for (int i = 0; i < kEach; ++i)
      for (float* const to : {r.scores, r.probs, r.gates}) row.store(to + t * r.experts, i, 0.f);
    for (int j = lane; j < r.k; j += 32) r.choice[t * r.k + j] = -1;
    if (lane == 0) r.lse[t] = 0;
    return;
  }
  row.make_scores(r, t);
  row.choose(r);
  row.write(r, t);
}

template <class T>
bool route_top_k(Queue& queue, ScoreRule rule, View<const float, 1> bias, GroupLimit limit,
                 View<const int32_t, 1> segment, const ScoreViews<T>& v, View<int32_t, 2> choice) {
  const int64_t tokens = v.logits.dim(0), experts = v.logits.dim(1);
  if (experts > 256 || limit.kept < limit.groups) return false;
  if (tokens == 0) return true;
  const Routed r{v.logits.data(), bias.data(),      v.scores.data(),    v.probs.data(),
                 v.gates.data(),  v.lse.data(),     segment.data(),     choice.data(),
                 tokens,          int(experts),     int(choice.dim(1)), rule.kind == ScoreRule::kSigmoid,
                 rule.share,      float(rule.scale)};
  const auto kernel = experts <= 64 ? route_kernel<2> : route_kernel<8>;
  launch_behind(stream_of(queue), kernel, blocks_for(tokens, kWarps), 32 * kWarps, r);
  return true;
}

}  // namespace

template <class T>
void add_route_entries(MoeKernels<T>& table) {
  table.route_top_k = route_top_k<T>;
}
template void add_route_entries(MoeKernels<float>&);
template void add_route_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
