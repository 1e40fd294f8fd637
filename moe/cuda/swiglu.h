// The gated activation and its gradient as passes of their own, where no product has them in its epilogue.
#pragma once

#include <cuda_runtime_api.h>

#include "parallel/device/bf16.h"
#include "parallel/device/view.h"

namespace cadre::moe::cuda {

// act = silu(gate) * up; all of the same size.
template <class T>
void swiglu(cudaStream_t, device::View<const T, 2> gate, device::View<const T, 2> up, device::View<T, 2> act);
// As the second step of MoeKernels::grouped_swiglu_backward, on the rows before the last of `offsets`.
template <class T>
void swiglu_gate_backward(cudaStream_t, device::View<const int64_t, 1> offsets,
                          device::View<const float, 1> weight, device::View<T, 2> gate, device::View<T, 2> up,
                          device::View<T, 2> out, device::View<float, 1> dweight);
// dweight[i] = sum over the rows p of partial (P, A), in order.
void add_partial_dots(cudaStream_t, device::View<const float, 2> partial, device::View<float, 1> dweight);

}  // namespace cadre::moe::cuda
