// The K best experts of each token on CUDA, a warp for each token: K passes, each for the best that comes
// after the last one in the order (score falling, index rising), as in moe/cpu/choice.cc.
#include <cmath>

#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::launch_behind_with;
using device::cuda::let_next_come;
using device::cuda::wait_for_kernel_before;

constexpr int kWarps = 4;

struct Best {
  float score;
  int index;  // INT_MAX: none
};
__device__ inline Best better(Best a, Best b) {
  if (b.index == INT_MAX) return a;
  if (a.index == INT_MAX) return b;
  return b.score > a.score || (b.score == a.score && b.index < a.index) ? b : a;
}
__device__ inline Best warp_best(Best v) {
  for (int step = 16; step > 0; step /= 2)
    v = better(v, {__shfl_xor_sync(~0u, v.score, step), __shfl_xor_sync(~0u, v.index, step)});
  return v;
}

struct TokenScores {
  const float *scores, *bias;  // bias null: 0
  int experts, groups, kept, group_size;
  __device__ float at(int e) const { return ordered(bias ? scores[e] + bias[e] : scores[e]); }
  // Sum of the two best of a group (one expert alone counts itself).
  __device__ float group_score(int group) const {
    const int begin = group * group_size;
    float first = at(begin), second = -INFINITY;
    for (int e = begin + 1; e < begin + group_size; ++e) {
      const float v = at(e);
      second = fmaxf(second, fminf(first, v));
      first = fmaxf(first, v);
    }
    return ordered(group_size == 1 ? first : first + second);
  }
};

// Bit g is set for the groups that take part. At most 64 groups, two a lane.
__device__ inline uint64_t kept_groups(const TokenScores& row, int lane) {
  if (row.kept == row.groups) return ~uint64_t(0);
  const float own[2] = {lane < row.groups ? row.group_score(lane) : 0.f,
                        lane + 32 < row.groups ? row.group_score(lane + 32) : 0.f};
  uint64_t kept = 0;
  for (int n = 0; n < row.kept; ++n) {
    Best best{0, INT_MAX};
    for (int i = 0; i < 2; ++i) {
      const int g = lane + 32 * i;
      if (g < row.groups && !(kept >> g & 1)) best = better(best, {own[i], g});
    }
    kept |= uint64_t(1) << warp_best(best).index;
  }
  return kept;
}

// chosen: a bit for each expert, this warp's words of shared memory.
__device__ inline void mark_best(const TokenScores& row, int k, uint32_t* chosen, int lane) {
  const uint64_t kept = kept_groups(row, lane);
  Best last{INFINITY, -1};
  for (int j = 0; j < k; ++j) {
    Best best{0, INT_MAX};
    for (int e = lane; e < row.experts; e += 32) {
      if (!(kept >> (e / row.group_size) & 1)) continue;
      const float v = row.at(e);
      if (v > last.score || (v == last.score && e <= last.index)) continue;
      best = better(best, {v, e});
    }
    last = warp_best(best);
    if (lane == 0) chosen[last.index / 32] |= 1u << (last.index % 32);
  }
  __syncwarp();
}

// The same for up to 32 kEach experts, whose scores are read once.
template <int kEach>
__device__ inline void mark_best_of_few(const TokenScores& row, int k, uint32_t* chosen, int lane) {
  const uint64_t kept = kept_groups(row, lane);
  uint32_t key[kEach];  // 0: not to be chosen, or not any more
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + 32 * i;
    key[i] = e < row.experts && (kept >> (e / row.group_size) & 1) ? rising_key(row.at(e)) : 0;
  }
  for (int j = 0; j < k; ++j) {
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
      if (unsigned(lane + 32 * i) == winner) key[i] = 0;
    if (lane == 0) chosen[winner / 32] |= 1u << (winner % 32);
  }
  __syncwarp();
}

__global__ void choose_kernel(const float* scores, const float* bias, int64_t tokens, int experts, int groups,
                              int kept, const int32_t* segment, int k, int32_t* choice) {
  extern __shared__ uint32_t marks[];
  const int64_t t = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, words = (experts + 31) / 32;
  wait_for_kernel_before();
  let_next_come();
  if (t >= tokens) return;
  int32_t* to = choice + t * k;
  if (segment[t] < 0) {
    for (int j = lane; j < k; j += 32) to[j] = -1;
    return;
  }
  uint32_t* chosen = marks + threadIdx.x / 32 * words;
  for (int w = lane; w < words; w += 32) chosen[w] = 0;
  __syncwarp();
  // groups > 1 divide the experts; with one group every expert is in it.
  const TokenScores row{scores + t * experts, bias, experts, groups, kept, experts / groups};
  if (experts <= 64) {
    mark_best_of_few<2>(row, k, chosen, lane);
  } else if (experts <= 256) {
    mark_best_of_few<8>(row, k, chosen, lane);
  } else {
    mark_best(row, k, chosen, lane);
  }
  int before = 0;
  for (int w = 0; w < words; ++w) {
    const uint32_t bits = chosen[w];
    if (bits >> lane & 1) to[before + __popc(bits & ((1u << lane) - 1))] = w * 32 + lane;
    before += __popc(bits);
  }
}

template <class T>
void choose_top_k(Queue& queue, View<const float, 2> scores, View<const float, 1> bias, GroupLimit limit,
                  View<const int32_t, 1> segment, View<int32_t, 2> choice) {
  const int64_t tokens = scores.dim(0), experts = scores.dim(1);
  check_experts(experts);
  if (tokens == 0) return;
  const int shared = kWarps * int((experts + 31) / 32) * int(sizeof(uint32_t));
  launch_behind_with(shared, stream_of(queue), choose_kernel, blocks_for(tokens, kWarps), kWarps * 32,
                     scores.data(), bias.data(), tokens, int(experts), limit.groups, limit.kept,
                     segment.data(), int(choice.dim(1)), choice.data());
}

}  // namespace

template <class T>
void add_choice_entries(MoeKernels<T>& table) {
  table.choose_top_k = choose_top_k<T>;
}
template void add_choice_entries(MoeKernels<float>&);
template void add_choice_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
