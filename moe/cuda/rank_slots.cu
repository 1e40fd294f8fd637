// The slots of several ranks on CUDA. Places follow from counts alone, so that the order is the same in every run.
#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::launch;

constexpr int kThreads = 256, kRestBlocks = 64;

struct Tables {
  const int32_t* token;    // (ranks, width)
  const float* gate;       // (ranks, width)
  const int64_t* offsets;  // (ranks, experts + 1)
  int64_t width, max_tokens, slots;
  int ranks, experts, first, local;
  int64_t *out_offsets, *rank_begins;  // null: not wanted
  int32_t *row, *source;
  float* out_gate;
};

// Slots of local expert i / ranks that came from rank i % ranks: the order in which they stand.
__device__ inline int64_t begin_of(const Tables& t, int i) {
  return t.offsets[int64_t(i % t.ranks) * (t.experts + 1) + t.first + i / t.ranks];
}
__device__ inline int64_t count_of(const Tables& t, int i) {
  return t.offsets[int64_t(i % t.ranks) * (t.experts + 1) + t.first + i / t.ranks + 1] - begin_of(t, i);
}

// The sum of v over the block, for all of its threads.
__device__ inline int64_t block_sum(int64_t v) {
  __shared__ int64_t sums[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
  __syncthreads();
  int64_t all = 0;
  for (int w = 0; w < kThreads / 32; ++w) all += sums[w];
  return all;
}

// A block for each expert and rank, and kRestBlocks for the places behind the last slot.
__global__ void place_kernel(Tables t) {
  const int groups = t.local * t.ranks, group = blockIdx.x;
  const bool rest = group >= groups;
  int64_t before = 0;
  for (int i = threadIdx.x; i < (rest ? groups : group); i += kThreads) before += count_of(t, i);
  before = block_sum(before);
  if (rest) {
    for (int64_t a = before + int64_t(group - groups) * kThreads + threadIdx.x; a < t.slots;
         a += int64_t(kRestBlocks) * kThreads) {
      t.row[a] = t.source[a] = -1;
      t.out_gate[a] = 0;
    }
    return;
  }
  const int rank = group % t.ranks;
  const int64_t begin = int64_t(rank) * t.width + begin_of(t, group), count = count_of(t, group);
  if (threadIdx.x == 0) {
    if (rank == 0) t.out_offsets[group / t.ranks] = before;
    if (group == groups - 1) t.out_offsets[t.local] = before + count;
    if (t.rank_begins != nullptr) {
      int64_t* begins = t.rank_begins + group / t.ranks;
      begins[int64_t(rank) * t.local] = before;
      if (rank == t.ranks - 1) begins[int64_t(t.ranks) * t.local] = before + count;
    }
  }
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    t.row[before + i] = int32_t(rank * t.max_tokens + t.token[begin + i]);
    t.source[before + i] = int32_t(begin + i);
    t.out_gate[before + i] = t.gate[begin + i];
  }
}

template <class T>
void place_slots(Queue& queue, const RankSlots<T>& slots, const SlotPlaces<T>& places) {
  const Tables t = {.token = slots.token.data(),
                    .gate = slots.gate.data(),
                    .offsets = slots.offsets.data(),
                    .width = slots.token.dim(1),
                    .max_tokens = slots.max_tokens,
                    .slots = places.row.dim(0),
                    .ranks = int(slots.token.dim(0)),
                    .experts = int(slots.offsets.dim(1) - 1),
                    .first = slots.first_expert,
                    .local = int(places.offsets.dim(0) - 1),
                    .out_offsets = places.offsets.data(),
                    .rank_begins = places.rank_begins.data(),
                    .row = places.row.data(),
                    .source = places.source.data(),
                    .out_gate = places.gate.data()};
  launch(stream_of(queue), place_kernel, unsigned(t.local * t.ranks + kRestBlocks), kThreads, t);
}

__global__ void scatter_kernel(const float* from, const int32_t* source, int64_t slots, float* to) {
  const int64_t a = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (a < slots && source[a] >= 0) to[source[a]] = from[a];
}

void scatter_gates(Queue& queue, View<const float, 1> from, View<const int32_t, 1> source,
                   View<float, 2> to) {
  const int64_t slots = source.size();
  launch(stream_of(queue), scatter_kernel, blocks_for(slots, kThreads), kThreads, from.data(), source.data(),
         slots, to.data());
}

__global__ void collect_kernel(const float* by_rank, const int64_t* offsets, int ranks, int local,
                               int64_t width, int64_t slots, float* gates) {
  const int64_t a = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (a >= slots || a >= offsets[ranks * local]) return;
  int rank = 0;
  while (a >= offsets[(rank + 1) * local]) ++rank;
  gates[a] = by_rank[rank * width + a];
}

void collect_gates(Queue& queue, View<const float, 2> by_rank, View<const int64_t, 1> offsets,
                   View<float, 1> gates) {
  const int ranks = int(by_rank.dim(0)), local = int((offsets.dim(0) - 1) / ranks);
  const int64_t slots = gates.size();
  launch(stream_of(queue), collect_kernel, blocks_for(slots, kThreads), kThreads, by_rank.data(),
         offsets.data(), ranks, local, by_rank.dim(1), slots, gates.data());
}

__global__ void sum_kernel(const float* by_rank, const int64_t* slots, int ranks, int64_t width, int64_t most,
                           float* gates) {
  const int64_t a = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (a >= most || a >= *slots) return;
  float sum = 0;
  for (int rank = 0; rank < ranks; ++rank) sum += by_rank[rank * width + a];
  gates[a] = sum;
}

void sum_gates(Queue& queue, View<const float, 2> by_rank, View<const int64_t, 1> offsets,
               View<float, 1> gates) {
  const int64_t slots = gates.size();
  launch(stream_of(queue), sum_kernel, blocks_for(slots, kThreads), kThreads, by_rank.data(),
         offsets.data() + offsets.dim(0) - 1, int(by_rank.dim(0)), by_rank.dim(1), slots, gates.data());
}

}  // namespace

template <class T>
void add_rank_slot_entries(MoeKernels<T>& table) {
  table.place_slots = place_slots<T>;
  table.scatter_gates = scatter_gates;
  table.collect_gates = collect_gates;
  table.sum_gates = sum_gates;
}
template void add_rank_slot_entries(MoeKernels<float>&);
template void add_rank_slot_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
