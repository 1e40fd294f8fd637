// Attention by this project's kernels alone, as on every shape that cuDNN does not run: flash_hopper.h on GPUs and
// shapes that it supports, else (portable) flash.h on tensor cores, else attention_general.h. Contracts are those of
// DeviceKernels.
#pragma once

#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"

namespace cadre::device::cuda {

template <class T>
void own_attention(Queue&, AttentionShape, View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                   View<const int32_t, 1> segment, View<T, 3> out, View<wide_t<T>, 2> lse);
template <class T>
void own_attention_backward(Queue&, AttentionShape, View<const T, 3> dout, View<const T, 3> q,
                            View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> segment,
                            View<const T, 3> out, View<const wide_t<T>, 2> lse, View<T, 3> dq, View<T, 3> dk,
                            View<T, 3> dv);
// The same on every GPU.
template <class T>
void portable_attention(Queue&, AttentionShape, View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                        View<const int32_t, 1> segment, View<T, 3> out, View<wide_t<T>, 2> lse);
template <class T>
void portable_attention_backward(Queue&, AttentionShape, View<const T, 3> dout, View<const T, 3> q,
                                 View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> segment,
                                 View<const T, 3> out, View<const wide_t<T>, 2> lse, View<T, 3> dq,
                                 View<T, 3> dk, View<T, 3> dv);

// Scratch that attention in bf16 takes for the shape, whichever kernels run it.
int64_t attention_workspace(Queue&, const AttentionShape&, bool backward);

}  // namespace cadre::device::cuda
