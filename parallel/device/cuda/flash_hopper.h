// Attention with asynchronous warpgroup products, for bf16 on sm_90a alone: head sizes 64 and 128, no past keys,
// 16-byte aligned views (Shah et al. 2024, FlashAttention 3, for the order of the forward pass). Documents cost
// what they see: tiles that no query sees are never read. Every element is summed in a fixed order, without an S x S
// workspace. The backward pass makes dq, dk and dv in one kernel, where there are heads of 64 enough for every
// multiprocessor to have whole ones; else dk and dv in one kernel and dq in another: 7 products instead of 5.
#pragma once

#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"

namespace cadre::device::cuda {

bool hopper_attention_supports(const AttentionShape&);
// Whether the backward pass makes dq, dk and dv in one kernel that is faster than cuDNN's repeatable one.
bool hopper_backward_beats_cudnn(const AttentionShape&);

// Bytes of scratch, 256-byte aligned.
size_t hopper_attention_bytes(const AttentionShape&, bool backward);
void hopper_attention(Queue&, const AttentionShape&, View<const bf16, 3> q, View<const bf16, 3> k,
                      View<const bf16, 3> v, View<const int32_t, 1> segment, View<bf16, 3> out,
                      View<float, 2> lse, void* scratch);
void hopper_attention_backward(Queue&, const AttentionShape&, View<const bf16, 3> dout, View<const bf16, 3> q,
                               View<const bf16, 3> k, View<const bf16, 3> v, View<const int32_t, 1> segment,
                               View<const bf16, 3> out, View<const float, 2> lse, View<bf16, 3> dq,
                               View<bf16, 3> dk, View<bf16, 3> dv, void* scratch);

}  // namespace cadre::device::cuda
