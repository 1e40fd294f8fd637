// Rows and slots of other ranks on CUDA, read over NVLink where they are. Nothing here waits for another rank, and nothing
// writes to one. Each lane has several loads of 16 bytes under way, as reads of another GPU take microseconds.
#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::check;

constexpr int kThreads = 256, kWarps = kThreads / 32;
// A journey of rows takes at most so many blocks, so that products beside it keep most of the GPU: 128 blocks with
// 8 packs of 16 bytes a lane are 4 MiB under way, where 450 GB/s and 2 us need 0.9. Not measured yet.
constexpr int kPullBlocks = 128, kFlight = 8;

bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}
template <class U>
bool aligned(const PeerArrays<U>& arrays) {
  return std::all_of(arrays.of, arrays.of + arrays.ranks,
                     [](const U* p) { return aligned(static_cast<const void*>(p)); });
}
// The same arrays with elements of another type.
template <class V, class U>
PeerArrays<V> as(const PeerArrays<U>& arrays) {
  PeerArrays<V> out;
  out.ranks = arrays.ranks;
  out.self = arrays.self;
  for (int r = 0; r < arrays.ranks; ++r) out.of[r] = reinterpret_cast<const V*>(arrays.of[r]);
  return out;
}
unsigned pull_blocks(int64_t rows) {
  return std::min(blocks_for(rows, kWarps), unsigned(kPullBlocks));
}

template <class T>
void copy_rows(Queue& queue, View<const T, 2> from, View<T, 2> to) {
  if (from.empty()) return;
  check(cudaMemcpyAsync(to.data(), from.data(), size_t(from.size()) * sizeof(T), cudaMemcpyDeviceToDevice,
                        stream_of(queue)));
}

// ---- Slots ----

__global__ void stage_kernel(const int64_t* offsets, const int32_t* token, const float* gate, int experts,
                             int ranks, int64_t tokens, int64_t* to_offsets, int32_t* to_token,
                             float* to_gate, uint8_t* takes) {
  const int64_t first = blockIdx.x * int64_t(kThreads) + threadIdx.x, step = int64_t(gridDim.x) * kThreads;
  for (int64_t e = first; e <= experts; e += step) to_offsets[e] = offsets[e];
  const int64_t slots = offsets[experts];
  const int local = takes == nullptr ? 0 : experts / ranks;
  int rank = 0;
  for (int64_t a = first; a < slots; a += step) {
    to_token[a] = token[a];
    to_gate[a] = gate[a];
    if (takes == nullptr) continue;
    while (a >= offsets[(rank + 1) * local]) ++rank;  // a only rises
    takes[rank * tokens + token[a]] = 1;              // several slots of a token store the same
  }
}

template <class T>
void stage_slots(Queue& queue, const Routing<T>& routing, const StagedSlots<T>& to, View<uint8_t, 2> takes) {
  const cudaStream_t stream = stream_of(queue);
  if (!takes.empty()) check(cudaMemsetAsync(takes.data(), 0, size_t(takes.size()), stream));
  const int experts = int(routing.num_experts);
  stage_kernel<<<blocks_for(std::max<int64_t>(routing.num_slots, experts + 1), kThreads), kThreads, 0,
                 stream>>>(routing.expert_offsets.data(), routing.slot_token.data(), routing.slot_gate.data(),
                           experts, int(takes.dim(0)), takes.dim(1), to.offsets.data(), to.token.data(),
                           to.gate.data(), takes.data());
  check(cudaGetLastError());
}

// blockIdx.y is the rank.
template <class T>
__global__ void pull_slots_kernel(PeerSlots<T> from, int first_expert, int local, int offsets_each,
                                  int64_t width, int64_t* offsets, int32_t* token, float* gate) {
  const int rank = blockIdx.y;
  const int64_t first = blockIdx.x * int64_t(kThreads) + threadIdx.x, step = int64_t(gridDim.x) * kThreads;
  const int64_t* theirs = from.offsets.of[rank];
  for (int64_t e = first; e < offsets_each; e += step) offsets[int64_t(rank) * offsets_each + e] = theirs[e];
  const int64_t end = theirs[first_expert + local];
  for (int64_t a = theirs[first_expert] + first; a < end; a += step) {
    token[rank * width + a] = from.token.of[rank][a];
    gate[rank * width + a] = from.gate.of[rank][a];
  }
}

template <class T>
void pull_slots(Queue& queue, const PeerSlots<T>& from, int first_expert, int local, View<int64_t, 2> offsets,
                View<int32_t, 2> token, View<float, 2> gate) {
  const int64_t width = token.dim(1);
  const dim3 grid(std::min(blocks_for(std::max(width, offsets.dim(1)), kThreads), unsigned(kPullBlocks)),
                  unsigned(from.offsets.ranks));
  pull_slots_kernel<T><<<grid, kThreads, 0, stream_of(queue)>>>(
      from, first_expert, local, int(offsets.dim(1)), width, offsets.data(), token.data(), gate.data());
  check(cudaGetLastError());
}

__global__ void pull_gates_kernel(PeerArrays<float> from, const int64_t* offsets, int local, int64_t slots,
                                  float* gates) {
  const int64_t a = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (a >= slots || a >= offsets[from.ranks * local]) return;
  int rank = 0;
  while (a >= offsets[(rank + 1) * local]) ++rank;
  gates[a] = from.of[rank][a];
}

void pull_gates(Queue& queue, const PeerArrays<float>& from, View<const int64_t, 1> offsets,
                View<float, 1> gates) {
  const int64_t slots = gates.size();
  pull_gates_kernel<<<blocks_for(slots, kThreads), kThreads, 0, stream_of(queue)>>>(
      from, offsets.data(), int((offsets.dim(0) - 1) / from.ranks), slots, gates.data());
  check(cudaGetLastError());
}

// ---- Rows: a warp each ----

// A row is `units` of U. Every rank begins with the rows of the one after it, so that no link has all of them at a time.
template <class U>
__global__ void pull_rows_kernel(PeerArrays<U> from, const int32_t* row_offsets, int64_t tokens, int units,
                                 U* out) {
  const int lane = threadIdx.x % 32;
  const int64_t rows = tokens * from.ranks, shift = (from.self + 1) * tokens;
  for (int64_t n = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32; n < rows;
       n += int64_t(gridDim.x) * kWarps) {
    const int64_t row = (n + shift) % rows, rank = row / tokens;
    if (row_offsets[row] == row_offsets[row + 1]) continue;
    const U* source = from.of[rank] + (row - rank * tokens) * units;
    U* to = out + row * units;
    for (int begin = lane; begin < units; begin += 32 * kFlight) {
      U v[kFlight];
#pragma unroll
      for (int k = 0; k < kFlight; ++k)
        if (begin + 32 * k < units) v[k] = source[begin + 32 * k];
#pragma unroll
      for (int k = 0; k < kFlight; ++k)
        if (begin + 32 * k < units) to[begin + 32 * k] = v[k];
    }
  }
}

template <class T>
void pull_rows(Queue& queue, const PeerArrays<T>& from, View<const int32_t, 1> row_offsets, View<T, 2> out) {
  const int64_t rows = out.dim(0), bytes = out.dim(1) * int64_t(sizeof(T));
  if (rows == 0 || bytes == 0) return;
  const int64_t tokens = rows / from.ranks;
  const cudaStream_t stream = stream_of(queue);
  if (bytes % 16 == 0 && aligned(from) && aligned(out.data())) {
    pull_rows_kernel<uint4><<<pull_blocks(rows), kThreads, 0, stream>>>(
        as<uint4>(from), row_offsets.data(), tokens, int(bytes / 16), reinterpret_cast<uint4*>(out.data()));
  } else {
    using N = native_t<T>;
    pull_rows_kernel<N><<<pull_blocks(rows), kThreads, 0, stream>>>(as<N>(from), row_offsets.data(), tokens,
                                                                    int(out.dim(1)), native(out.data()));
  }
  check(cudaGetLastError());
}

template <class N, int kPack>
__device__ inline void load(const N* p, float (&v)[kPack]) {
  if constexpr (kPack == 1) {
    v[0] = to_float(*p);
  } else {
    const Pack<N> pack = load_pack(p);
#pragma unroll
    for (int i = 0; i < kPack; ++i) v[i] = to_float(pack.v[i]);
  }
}
template <class N, int kPack>
__device__ inline void store(N* p, const float (&v)[kPack]) {
  if constexpr (kPack == 1) {
    *p = N(v[0]);
  } else {
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = N(v[i]);
    store_pack(p, pack);
  }
}

// A row is `units` of kPack elements; takes: `stride` a rank.
template <class N, int kPack>
__global__ void pull_sums_kernel(PeerArrays<N> from, const uint8_t* takes, int64_t stride, bool accumulate,
                                 int64_t tokens, int units, N* out) {
  constexpr int kUnits = kPack == 1 ? kFlight : 4;  // under way for a lane
  const int lane = threadIdx.x % 32;
  const int64_t width = int64_t(units) * kPack;
  for (int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32; t < tokens;
       t += int64_t(gridDim.x) * kWarps) {
    for (int begin = lane; begin < units; begin += 32 * kUnits) {
      float sum[kUnits][kPack] = {};
      if (accumulate) {
#pragma unroll
        for (int k = 0; k < kUnits; ++k)
          if (begin + 32 * k < units) load(out + t * width + int64_t(begin + 32 * k) * kPack, sum[k]);
      }
      for (int r = 0; r < from.ranks; ++r) {
        if (takes[r * stride + t] == 0) continue;
        float v[kUnits][kPack] = {};
#pragma unroll
        for (int k = 0; k < kUnits; ++k)
          if (begin + 32 * k < units) load(from.of[r] + t * width + int64_t(begin + 32 * k) * kPack, v[k]);
#pragma unroll
        for (int k = 0; k < kUnits; ++k)
#pragma unroll
          for (int i = 0; i < kPack; ++i) sum[k][i] += v[k][i];
      }
#pragma unroll
      for (int k = 0; k < kUnits; ++k)
        if (begin + 32 * k < units) store(out + t * width + int64_t(begin + 32 * k) * kPack, sum[k]);
    }
  }
}

template <class T>
void pull_sums(Queue& queue, const PeerArrays<T>& from, View<const uint8_t, 2> takes, bool accumulate,
               View<T, 2> out) {
  using N = native_t<T>;
  constexpr int kPack = Pack<N>::kCount;
  const int64_t tokens = out.dim(0), width = out.dim(1);
  if (tokens == 0 || width == 0) return;
  const auto run = [&](auto kernel, int64_t units) {
    kernel<<<pull_blocks(tokens), kThreads, 0, stream_of(queue)>>>(
        as<N>(from), takes.data(), takes.dim(1), accumulate, tokens, int(units), native(out.data()));
  };
  if (width % kPack == 0 && aligned(from) && aligned(out.data())) {
    run(pull_sums_kernel<N, kPack>, width / kPack);
  } else {
    run(pull_sums_kernel<N, 1>, width);
  }
  check(cudaGetLastError());
}

}  // namespace

template <class T>
void add_peer_entries(MoeKernels<T>& table) {
  table.copy_rows = copy_rows<T>;
  table.stage_slots = stage_slots<T>;
  table.pull_slots = pull_slots<T>;
  table.pull_rows = pull_rows<T>;
  table.pull_sums = pull_sums<T>;
  table.pull_gates = pull_gates;
}
template void add_peer_entries(MoeKernels<float>&);
template void add_peer_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
