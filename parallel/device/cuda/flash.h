// Attention on tensor cores for bf16, head sizes 32, 64, 96 and 128, 16-byte aligned views (Dao et al. 2022 and Dao
// 2023, FlashAttention 1 and 2). Tiles that no query sees cost nothing. The backward pass makes dk and dv in one
// kernel and dq in another, each element summed by one thread in a fixed order: the scores are computed twice,
// but nothing is added atomically.
#pragma once

#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"

namespace cadre::device::cuda {

// On the current device, which must have the shared memory.
bool flash_supports(const AttentionShape&);

// ranges: scratch of flash_ranges(shape) elements, int2 each; not touched without segments.
int64_t flash_ranges(const AttentionShape&);
void flash_attention(Queue&, const AttentionShape&, View<const bf16, 3> q, View<const bf16, 3> k,
                     View<const bf16, 3> v, View<const int32_t, 1> segment, View<bf16, 3> out,
                     View<float, 2> lse, void* ranges);
// delta: (T, N), sum over the head of dout * out.
void flash_attention_backward(Queue&, const AttentionShape&, View<const bf16, 3> dout, View<const bf16, 3> q,
                              View<const bf16, 3> k, View<const bf16, 3> v, View<const int32_t, 1> segment,
                              View<const float, 2> lse, const float* delta, View<bf16, 3> dq,
                              View<bf16, 3> dk, View<bf16, 3> dv, void* ranges);

}  // namespace cadre::device::cuda
