// Norms of the blocks of an expert's first activation on CUDA, a warp for each block.
#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::check;

constexpr int kWarps = 8;

template <class N>
__global__ void norms_kernel(const N* h, const int32_t* segment, int64_t tokens, int experts, int64_t width,
                             float* norms) {
  const int64_t block = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (block >= tokens * experts) return;
  float sum = 0;
  for (int64_t i = lane; i < width; i += 32) {
    const float v = to_float(h[block * width + i]);
    sum += v * v;
  }
  sum = warp_sum(sum);
  if (lane == 0) norms[block] = segment[block / experts] < 0 ? 0.f : sqrtf(sum);
}

template <class T>
void block_norms(Queue& queue, View<const T, 3> h, View<const int32_t, 1> segment, View<float, 2> norms) {
  const int64_t blocks = h.dim(0) * h.dim(1);
  if (blocks == 0) return;
  norms_kernel<<<blocks_for(blocks, kWarps), kWarps * 32, 0, stream_of(queue)>>>(
      native(h.data()), segment.data(), h.dim(0), int(h.dim(1)), h.dim(2), norms.data());
  check(cudaGetLastError());
}

// kAdd: the block of each slot gets the slot's row added; else the slot gets a copy of its block.
template <class N, bool kAdd>
__global__ void slot_blocks(const int64_t* offsets, int experts, const int32_t* slot_token, int64_t width,
                            N* blocks, N* slots) {
  const int lane = threadIdx.x % 32;
  const int64_t count = offsets[experts];
  for (int64_t a = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32; a < count;
       a += int64_t(gridDim.x) * kWarps) {
    N* block = blocks + (int64_t(slot_token[a]) * experts + group_of(offsets, experts, a)) * width;
    N* slot = slots + a * width;
    for (int64_t i = lane; i < width; i += 32) {
      if constexpr (kAdd) {
        block[i] = N(to_float(block[i]) + to_float(slot[i]));
      } else {
        slot[i] = block[i];
      }
    }
  }
}

template <class T, bool kAdd>
void run_slot_blocks(Queue& queue, const Routing<T>& routing, T* blocks, T* slots, int64_t width) {
  if (routing.num_slots == 0) return;
  slot_blocks<native_t<T>, kAdd><<<blocks_for(routing.num_slots, kWarps), kWarps * 32, 0, stream_of(queue)>>>(
      routing.expert_offsets.data(), int(routing.num_experts), routing.slot_token.data(), width,
      native(blocks), native(slots));
  check(cudaGetLastError());
}

template <class T>
void gather_hints(Queue& queue, View<const T, 3> h, const Routing<T>& routing, View<T, 2> slot_hint) {
  run_slot_blocks<T, false>(queue, routing, const_cast<T*>(h.data()), slot_hint.data(), h.dim(2));
}

template <class N>
__global__ void norms_backward(const float* dnorms, const float* norms, int64_t blocks, int64_t width, N* h) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < blocks * width;
       i += int64_t(gridDim.x) * blockDim.x) {
    const float norm = norms[i / width];
    h[i] = N((norm > 0 ? dnorms[i / width] / norm : 0.f) * to_float(h[i]));
  }
}

template <class T>
void block_norms_backward(Queue& queue, View<const float, 2> dnorms, View<const float, 2> norms,
                          const Routing<T>& routing, View<const T, 2> dslot_hint, View<T, 3> h) {
  const int64_t blocks = h.dim(0) * h.dim(1);
  if (blocks == 0) return;
  norms_backward<<<blocks_for(blocks * h.dim(2), 1024), 256, 0, stream_of(queue)>>>(
      dnorms.data(), norms.data(), blocks, h.dim(2), native(h.data()));
  check(cudaGetLastError());
  if (!dslot_hint.empty())
    run_slot_blocks<T, true>(queue, routing, h.data(), const_cast<T*>(dslot_hint.data()), h.dim(2));
}

}  // namespace

template <class T>
void add_hint_entries(MoeKernels<T>& table) {
  table.block_norms = block_norms<T>;
  table.gather_hints = gather_hints<T>;
  table.block_norms_backward = block_norms_backward<T>;
}
template void add_hint_entries(MoeKernels<float>&);
template void add_hint_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
