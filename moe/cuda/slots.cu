// The sorted list of slots on CUDA. Integer counters may be raised in any order; every place of a slot follows
// from counts alone, so that the list is the same in every run.
#include <cmath>

#include "moe/cuda/entries.h"
#include "moe/cuda/few_slots.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::check;
using device::cuda::launch;
using device::cuda::launch_with;

constexpr int kChunk = 32;  // tokens of a warp: a bit each
constexpr int kScanThreads = 1024;

// ---- Top-k ----

// marks[e] gets a bit for each of the warp's tokens that chose e.
__device__ inline void mark_choices(const int32_t* choice, int64_t tokens, int k, int experts,
                                    uint32_t* marks) {
  for (int e = threadIdx.x; e < experts; e += 32) marks[e] = 0;
  __syncwarp();
  const int64_t t = int64_t(blockIdx.x) * kChunk + threadIdx.x;
  if (t < tokens) {
    for (int j = 0; j < k; ++j) {
      const int32_t e = choice[t * k + j];
      if (e >= 0) atomicOr(&marks[e], 1u << threadIdx.x);
    }
  }
  __syncwarp();
}

// counts: (chunks, E)
__global__ void count_choices(const int32_t* choice, int64_t tokens, int k, int experts, int32_t* counts) {
  extern __shared__ uint32_t marks[];
  mark_choices(choice, tokens, k, experts, marks);
  for (int e = threadIdx.x; e < experts; e += 32) counts[blockIdx.x * experts + e] = __popc(marks[e]);
}

// Inclusive prefix sum over a warp.
__device__ inline int64_t warp_prefix(int64_t v) {
  for (int step = 1; step < 32; step *= 2) {
    const int64_t left = __shfl_up_sync(~0u, v, step);
    if (int(threadIdx.x % 32) >= step) v += left;
  }
  return v;
}

// One warp: offsets[e + 1] = offsets[e] + counts[e], offsets[0] = 0.
__device__ inline void prefix_of_counts(const int64_t* counts, int experts, int64_t* offsets) {
  const int lane = threadIdx.x % 32;
  int64_t before = 0;
  if (lane == 0) offsets[0] = 0;
  for (int begin = 0; begin < experts; begin += 32) {
    const int e = begin + lane;
    const int64_t sum = before + warp_prefix(e < experts ? counts[e] : 0);
    if (e < experts) offsets[e + 1] = sum;
    before = __shfl_sync(~0u, sum, 31);
  }
}

// Inclusive prefix sum over a block of whole warps, and the sum of all.
__device__ inline int32_t block_prefix(int32_t v, int32_t& all) {
  __shared__ int32_t sums[32];
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int32_t prefix = int32_t(warp_prefix(v));
  __syncthreads();  // the sums of an earlier call were read
  if (threadIdx.x % 32 == 31) sums[warp] = prefix;
  __syncthreads();
  all = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) prefix += sums[w];
    all += sums[w];
  }
  return prefix;
}

// A block an expert. Counts become the places of each chunk's first slot within its expert.
__global__ void scan_counts(int32_t* counts, int64_t chunks, int experts, int64_t* tally) {
  int32_t* own = counts + blockIdx.x;
  int32_t before = 0;
  for (int64_t begin = 0; begin < chunks; begin += blockDim.x) {
    const int64_t c = begin + threadIdx.x;
    const int32_t count = c < chunks ? own[c * experts] : 0;
    int32_t all;
    const int32_t sum = block_prefix(count, all);
    if (c < chunks) own[c * experts] = before + sum - count;
    before += all;
  }
  if (threadIdx.x == 0) tally[blockIdx.x] = before;
}

// One warp.
__global__ void offsets_of_tally(int64_t* tally, int experts, int64_t* offsets) {
  prefix_of_counts(tally, experts, offsets);
  if (threadIdx.x == 0) tally[experts] = 0;  // nothing dropped
}

__global__ void place_choices(const int32_t* choice, const float* gates, int64_t tokens, int k, int experts,
                              const int32_t* places, const int64_t* offsets, int32_t* slot_token,
                              float* slot_gate) {
  extern __shared__ uint32_t marks[];
  mark_choices(choice, tokens, k, experts, marks);
  const int64_t t = int64_t(blockIdx.x) * kChunk + threadIdx.x;
  if (t >= tokens) return;
  for (int j = 0; j < k; ++j) {
    const int32_t e = choice[t * k + j];
    if (e < 0) continue;
    const int rank = __popc(marks[e] & ((1u << threadIdx.x) - 1));
    const int64_t slot = offsets[e] + places[blockIdx.x * experts + e] + rank;
    slot_token[slot] = int32_t(t);
    slot_gate[slot] = gates[t * experts + e];
  }
}

// Slots behind the last one.
__global__ void clear_rest(const int64_t* offsets, int experts, int64_t slots, int32_t* slot_token,
                           float* slot_gate) {
  for (int64_t a = offsets[experts] + blockIdx.x * int64_t(blockDim.x) + threadIdx.x; a < slots;
       a += int64_t(gridDim.x) * blockDim.x) {
    slot_token[a] = -1;
    slot_gate[a] = 0;
  }
}

template <class T>
TopKLists lists_of(View<const int32_t, 2> choice, View<const float, 2> gates, Routing<T>& routing) {
  return {.choice = choice.data(),
          .gates = gates.data(),
          .tokens = choice.dim(0),
          .k = int(choice.dim(1)),
          .experts = int(routing.num_experts),
          .slots = routing.num_slots,
          .tally = routing.tally.data(),
          .offsets = routing.expert_offsets.data(),
          .slot_token = routing.slot_token.data(),
          .slot_gate = routing.slot_gate.data(),
          .row_offsets = nullptr,
          .row_slots = nullptr};
}

template <class T>
bool top_k_slots_by_row(Queue& queue, View<const int32_t, 2> choice, View<const float, 2> gates,
                        Routing<T>& routing) {
  TopKLists lists = lists_of(choice, gates, routing);
  check_experts(lists.experts);
  if (lists.tokens > MoeKernels<T>::kFewTokens) return false;
  lists.row_offsets = routing.row_offsets.data();
  lists.row_slots = routing.row_slots.data();
  return top_k_slots_of_few(stream_of(queue), lists);
}

template <class T>
void top_k_slots(Queue& queue, View<const int32_t, 2> choice, View<const float, 2> gates,
                 Routing<T>& routing) {
  const int64_t tokens = choice.dim(0), experts = routing.num_experts, chunks = blocks_for(tokens, kChunk);
  const int k = int(choice.dim(1));
  check_experts(experts);
  const cudaStream_t stream = stream_of(queue);
  if (top_k_slots_of_few(stream, lists_of(choice, gates, routing))) return;
  auto* counts = reinterpret_cast<int32_t*>(scratch_of(queue, size_t(chunks * experts) * sizeof(int32_t)));
  const int shared = int(experts) * int(sizeof(uint32_t));
  int64_t* offsets = routing.expert_offsets.data();
  launch_with(shared, false, stream, count_choices, unsigned(chunks), 32, choice.data(), tokens, k,
              int(experts), counts);
  launch(stream, scan_counts, unsigned(experts), 256, counts, chunks, int(experts), routing.tally.data());
  launch(stream, offsets_of_tally, 1, 32, routing.tally.data(), int(experts), offsets);
  launch_with(shared, false, stream, place_choices, unsigned(chunks), 32, choice.data(), gates.data(), tokens,
              k, int(experts), counts, offsets, routing.slot_token.data(), routing.slot_gate.data());
  launch(stream, clear_rest, 16, 256, offsets, int(experts), routing.num_slots, routing.slot_token.data(),
         routing.slot_gate.data());
}

// ---- The best of a list, for expert choice and capacity ----

// A key that rises with the value.
__device__ inline uint32_t key_of(float v) {
  const uint32_t bits = __float_as_uint(ordered(v) + 0.f);  // + 0: both zeros are one
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

constexpr int kSelectThreads = 256;

// Of items 0..n-1 with keys key(i), calls keep(place, i) for the `take` best in rising order of i; ties go to
// the lower i. key returns false for items that do not take part. By one block of kSelectThreads.
template <class Key, class Keep>
__device__ void select_best(int64_t n, int64_t take, const Key& key, const Keep& keep) {
  __shared__ int32_t histogram[256];
  __shared__ uint32_t prefix;
  __shared__ int64_t above;  // items whose key is greater than every one that starts with the prefix
  if (threadIdx.x == 0) prefix = 0, above = 0;
  __syncthreads();
  // The key of the last one taken, a byte at a time from the top.
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kSelectThreads) {
      uint32_t v;
      if (key(i, v) && (shift == 24 || v >> (shift + 8) == prefix))
        atomicAdd(&histogram[v >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t sum = above;
      int byte = 255;
      while (byte > 0 && sum + histogram[byte] < take) sum += histogram[byte--];
      above = sum;
      prefix = prefix << 8 | uint32_t(byte);
    }
    __syncthreads();
  }
  const int64_t ties = take - above;  // of those with exactly this key, the first ones
  int64_t taken = 0, tied = 0;        // before the current piece
  __shared__ int32_t greater_of[kSelectThreads / 32], equal_of[kSelectThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t begin = 0; begin < n; begin += kSelectThreads) {
    const int64_t i = begin + threadIdx.x;
    uint32_t v = 0;
    const bool valid = i < n && key(i, v), equal = valid && v == prefix;
    const uint32_t equal_bits = __ballot_sync(~0u, equal);
    if (lane == 0) equal_of[warp] = __popc(equal_bits);
    __syncthreads();
    int64_t tie = tied + __popc(equal_bits & ((1u << lane) - 1));
    for (int w = 0; w < kSelectThreads / 32; ++w) {
      if (w < warp) tie += equal_of[w];
      tied += equal_of[w];
    }
    const bool take_it = valid && (v > prefix || (equal && tie < ties));
    const uint32_t bits = __ballot_sync(~0u, take_it);
    if (lane == 0) greater_of[warp] = __popc(bits);
    __syncthreads();
    int64_t place = taken + __popc(bits & ((1u << lane) - 1));
    for (int w = 0; w < kSelectThreads / 32; ++w) {
      if (w < warp) place += greater_of[w];
      taken += greater_of[w];
    }
    if (take_it) keep(place, i);
    __syncthreads();
  }
}

// A block an expert.
__global__ void expert_choice_kernel(const float* probs, const int32_t* segment, int64_t tokens, int experts,
                                     int64_t take, int32_t* slot_token, float* slot_gate, float* gates,
                                     int64_t* tally, int64_t* offsets) {
  const int64_t e = blockIdx.x;
  const auto key = [&](int64_t t, uint32_t& v) {
    v = key_of(probs[t * experts + e]);
    return segment[t] >= 0;
  };
  if (take > 0) {
    select_best(tokens, take, key, [&](int64_t place, int64_t t) {
      slot_token[e * take + place] = int32_t(t);
      slot_gate[e * take + place] = gates[t * experts + e] = probs[t * experts + e];
    });
  }
  if (threadIdx.x != 0) return;
  tally[e] = take;
  offsets[e + 1] = (e + 1) * take;
  if (e == 0) offsets[0] = tally[experts] = 0;
}

template <class T>
void expert_choice_slots(Queue& queue, int64_t capacity, View<const int32_t, 1> segment, View<int32_t, 2>,
                         const ScoreViews<T>& v, Routing<T>& routing) {
  const int64_t take = std::min(capacity, routing.num_real);
  const cudaStream_t stream = stream_of(queue);
  if (!v.gates.empty())
    check(cudaMemsetAsync(v.gates.data(), 0, size_t(v.gates.size()) * sizeof(float), stream));
  launch(stream, expert_choice_kernel, unsigned(routing.num_experts), kSelectThreads, v.probs.data(),
         segment.data(), segment.dim(0), int(routing.num_experts), take, routing.slot_token.data(),
         routing.slot_gate.data(), v.gates.data(), routing.tally.data(), routing.expert_offsets.data());
}

// ---- Capacity ----

// Lists the kept slots of expert e in order[offsets[e] ..], a block an expert.
__global__ void keep_best(const float* probs, int experts, const int64_t* offsets, const int32_t* slot_token,
                          int64_t capacity, bool by_position, int32_t* order) {
  const int64_t e = blockIdx.x, begin = offsets[e], count = offsets[e + 1] - begin;
  if (by_position || count <= capacity || capacity == 0) {
    for (int64_t i = threadIdx.x; i < min(count, capacity); i += kSelectThreads)
      order[begin + i] = int32_t(begin + i);
    return;
  }
  const auto key = [&](int64_t i, uint32_t& v) {
    v = key_of(probs[int64_t(slot_token[begin + i]) * experts + e]);
    return true;
  };
  select_best(count, capacity, key,
              [&](int64_t place, int64_t i) { order[begin + place] = int32_t(begin + i); });
}

// One block: offsets of the kept slots, and how many went.
__global__ void limit_offsets(int64_t* offsets, int experts, int64_t capacity, int64_t* old_offsets,
                              int64_t* kept, int64_t* tally) {
  for (int e = threadIdx.x; e <= experts; e += blockDim.x) old_offsets[e] = offsets[e];
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    kept[e] = min(old_offsets[e + 1] - old_offsets[e], capacity);
  __syncthreads();
  if (threadIdx.x < 32) prefix_of_counts(kept, experts, offsets);
  __syncwarp();
  if (threadIdx.x == 0) tally[experts] = old_offsets[experts] - offsets[experts];
}

// to[s] = from[order of new slot s]; slots behind the last one are cleared.
__global__ void move_slots(const int64_t* offsets, const int64_t* old_offsets, int experts, int64_t slots,
                           const int32_t* order, const int32_t* from_token, const float* from_gate,
                           int32_t* to_token, float* to_gate) {
  const int64_t kept = offsets[experts];
  for (int64_t s = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; s < slots;
       s += int64_t(gridDim.x) * blockDim.x) {
    if (s >= kept) {
      to_token[s] = -1;
      to_gate[s] = 0;
      continue;
    }
    const int e = group_of(offsets, experts, s);
    const int32_t old = order[old_offsets[e] + s - offsets[e]];
    to_token[s] = from_token[old];
    to_gate[s] = from_gate[old];
  }
}

template <class T>
void limit_capacity(Queue& queue, int64_t capacity, DropPolicy policy, View<int32_t, 1> order,
                    Routing<T>& routing) {
  const int64_t slots = routing.num_slots, experts = routing.num_experts;
  if (slots == 0) return;
  const cudaStream_t stream = stream_of(queue);
  auto* old_offsets = reinterpret_cast<int64_t*>(
      scratch_of(queue, size_t(2 * experts + 1) * sizeof(int64_t) + size_t(slots) * 8));
  int64_t* kept = old_offsets + experts + 1;
  auto* token = reinterpret_cast<int32_t*>(kept + experts);
  auto* gate = reinterpret_cast<float*>(token + slots);
  int64_t* offsets = routing.expert_offsets.data();
  launch(stream, keep_best, unsigned(experts), kSelectThreads, routing.probs.data(), int(experts), offsets,
         routing.slot_token.data(), capacity, policy == DropPolicy::kPosition, order.data());
  launch(stream, limit_offsets, 1, kScanThreads, offsets, int(experts), capacity, old_offsets, kept,
         routing.tally.data());
  launch(stream, move_slots, blocks_for(slots, 256), 256, offsets, old_offsets, int(experts), slots,
         order.data(), routing.slot_token.data(), routing.slot_gate.data(), token, gate);
  check(
      cudaMemcpyAsync(routing.slot_token.data(), token, size_t(slots) * 4, cudaMemcpyDeviceToDevice, stream));
  check(cudaMemcpyAsync(routing.slot_gate.data(), gate, size_t(slots) * 4, cudaMemcpyDeviceToDevice, stream));
}

}  // namespace

template <class T>
void add_slot_entries(MoeKernels<T>& table) {
  table.top_k_slots = top_k_slots<T>;
  table.top_k_slots_by_row = top_k_slots_by_row<T>;
  table.expert_choice_slots = expert_choice_slots<T>;
  table.limit_capacity = limit_capacity<T>;
}
template void add_slot_entries(MoeKernels<float>&);
template void add_slot_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
