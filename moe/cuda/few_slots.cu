#include "moe/cuda/few_slots.h"

#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::cuda::launch_behind_with;
using device::cuda::let_next_come;
using device::cuda::wait_for_kernel_before;

constexpr int kThreads = 1024;
constexpr int64_t kSharedWords = 10 << 10;  // below the 48 KiB that need no asking

__device__ inline int32_t prefix_of_warp(int32_t v) {
  for (int step = 1; step < 32; step *= 2) {
    const int32_t left = __shfl_up_sync(~0u, v, step);
    if (int(threadIdx.x % 32) >= step) v += left;
  }
  return v;
}

// By one warp: counts become the sums of all before them, and counts[n] the sum of all.
__device__ inline void sums_before(int32_t* counts, int n) {
  int32_t before = 0;
  for (int begin = 0; begin < n; begin += 32) {
    const int i = begin + int(threadIdx.x);
    const int32_t own = i < n ? counts[i] : 0, sum = prefix_of_warp(own);
    if (i < n) counts[i] = before + sum - own;
    before += __shfl_sync(~0u, sum, 31);
  }
  if (threadIdx.x == 0) counts[n] = before;
}

// Slots of each token: as many as it chose experts, all or none, and in their order, which rises.
struct ByRow {
  const TopKLists& l;
  uint32_t* real;   // (chunks) a bit for each token that has slots
  int32_t* before;  // (chunks) such tokens in the chunks before

  // Two calls with a barrier between them, and one behind.
  __device__ void mark() const {
    const int t = int(threadIdx.x);
    const uint32_t bits = __ballot_sync(~0u, t < l.tokens && l.choice[int64_t(t) * l.k] >= 0);
    if (t % 32 == 0) real[t / 32] = bits;
  }
  __device__ void count() const {
    const int t = int(threadIdx.x);
    if (t >= 32) return;
    const int32_t own = __popc(real[t]), sum = prefix_of_warp(own);
    before[t] = sum - own;
    if (t == 31) l.row_offsets[l.tokens] = sum * l.k;
  }
  __device__ int32_t first_of(int t) const {
    return (before[t / 32] + __popc(real[t / 32] & ((1u << (t % 32)) - 1))) * l.k;
  }
};

// marks (chunks, E): a bit for each of a chunk's 32 tokens that chose the expert.
__global__ void __launch_bounds__(kThreads) top_k_kernel(TopKLists l) {
  extern __shared__ uint32_t marks[];
  __shared__ uint32_t real[kThreads / 32];
  __shared__ int32_t before[kThreads / 32];
  const ByRow by_row{l, real, before};
  const bool rows = l.row_slots != nullptr;
  const int chunks = int((l.tokens + 31) / 32), choices = int(l.tokens) * l.k, experts = l.experts;
  auto* const first = reinterpret_cast<int32_t*>(marks + chunks * experts);  // (E + 1) slot of each expert
  for (int i = int(threadIdx.x); i < chunks * experts; i += kThreads) marks[i] = 0;
  __syncthreads();
  wait_for_kernel_before();
  let_next_come();
  for (int i = int(threadIdx.x); i < choices; i += kThreads) {
    const int32_t e = l.choice[i];
    const int t = i / l.k;
    if (e >= 0) atomicOr(&marks[t / 32 * experts + e], 1u << (t % 32));
  }
  if (rows) by_row.mark();
  __syncthreads();
  for (int e = int(threadIdx.x); e < experts; e += kThreads) {
    int32_t count = 0;
    for (int c = 0; c < chunks; ++c) count += __popc(marks[c * experts + e]);
    first[e] = count;
    l.tally[e] = count;
  }
  __syncthreads();
  if (threadIdx.x < 32) sums_before(first, experts);
  if (rows) by_row.count();
  __syncthreads();
  if (rows && threadIdx.x < l.tokens) l.row_offsets[threadIdx.x] = by_row.first_of(int(threadIdx.x));
  for (int e = int(threadIdx.x); e <= experts; e += kThreads) l.offsets[e] = first[e];
  if (threadIdx.x == 0) l.tally[experts] = 0;  // nothing dropped
  for (int i = int(threadIdx.x); i < choices; i += kThreads) {
    const int32_t e = l.choice[i];
    if (e < 0) continue;
    const int t = i / l.k, chunk = t / 32;
    int slot = first[e] + __popc(marks[chunk * experts + e] & ((1u << (t % 32)) - 1));
    for (int c = 0; c < chunk; ++c) slot += __popc(marks[c * experts + e]);
    l.slot_token[slot] = t;
    l.slot_gate[slot] = l.gates[int64_t(t) * experts + e];
    if (rows) l.row_slots[by_row.first_of(t) + i - t * l.k] = slot;
  }
  for (int64_t a = first[experts] + int(threadIdx.x); a < l.slots; a += kThreads) {
    l.slot_token[a] = -1;
    l.slot_gate[a] = 0;
  }
}

// Slots come to their row in any order and are sorted there, so that the list is the same in every run.
__global__ void __launch_bounds__(kThreads)
    by_row_kernel(const int32_t* slot_row, int slots, int rows, int32_t* row_offsets, int32_t* row_slots) {
  extern __shared__ int32_t cursors[];  // (rows + 1), then the list
  int32_t* const list = cursors + rows + 1;
  for (int i = int(threadIdx.x); i < rows; i += kThreads) cursors[i] = 0;
  __syncthreads();
  wait_for_kernel_before();
  let_next_come();
  for (int a = int(threadIdx.x); a < slots; a += kThreads)
    if (slot_row[a] >= 0) atomicAdd(&cursors[slot_row[a]], 1);
  __syncthreads();
  if (threadIdx.x < 32) sums_before(cursors, rows);
  __syncthreads();
  for (int i = int(threadIdx.x); i <= rows; i += kThreads) row_offsets[i] = cursors[i];
  __syncthreads();  // places were read before they move on
  for (int a = int(threadIdx.x); a < slots; a += kThreads)
    if (slot_row[a] >= 0) list[atomicAdd(&cursors[slot_row[a]], 1)] = a;
  __syncthreads();
  for (int i = int(threadIdx.x); i < rows; i += kThreads) {
    const int begin = i > 0 ? cursors[i - 1] : 0,
              end = cursors[i];  // a cursor ends where the next row begins
    for (int j = begin + 1; j < end; ++j) {
      const int32_t v = list[j];
      int to = j;
      for (; to > begin && list[to - 1] > v; --to) list[to] = list[to - 1];
      list[to] = v;
    }
    for (int j = begin; j < end; ++j) row_slots[j] = list[j];
  }
}

}  // namespace

bool top_k_slots_of_few(cudaStream_t stream, const TopKLists& lists) {
  const int64_t words = (lists.tokens + 31) / 32 * lists.experts + lists.experts + 1;
  if (lists.tokens > kThreads || words > kSharedWords) return false;
  launch_behind_with(int(words * sizeof(uint32_t)), stream, top_k_kernel, 1, kThreads, lists);
  return true;
}

bool slots_by_row_of_few(cudaStream_t stream, const int32_t* slot_row, int64_t slots, int64_t rows,
                         int32_t* row_offsets, int32_t* row_slots) {
  const int64_t words = rows + 1 + slots;
  if (rows > kThreads || words > kSharedWords) return false;
  launch_behind_with(int(words * sizeof(int32_t)), stream, by_row_kernel, 1, kThreads, slot_row, int(slots),
                     int(rows), row_offsets, row_slots);
  return true;
}

}  // namespace cadre::moe::cuda
