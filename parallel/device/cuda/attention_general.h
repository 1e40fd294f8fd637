// Attention for any storage type and head size: a warp for each query (forward, dq) or key (dk, dv), 32 keys
// or queries at a time, one a lane. Slow; for fp32 and for head sizes that the tensor-core kernels lack.
#pragma once

#include "parallel/device/kernels.h"

namespace cadre::device::cuda {

template <class T>
void general_attention(Queue&, const AttentionShape&, View<const T, 3> q, View<const T, 3> k,
                       View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                       View<float, 2> lse);
// delta: (T, N), sum over the head of dout * out.
template <class T>
void general_attention_backward(Queue&, const AttentionShape&, View<const T, 3> dout, View<const T, 3> q,
                                View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> segment,
                                View<const float, 2> lse, const float* delta, View<T, 3> dq, View<T, 3> dk,
                                View<T, 3> dv);

}  // namespace cadre::device::cuda
