// The forms of sm_90a that do more than one product of grouped_products.h at a time. Contracts in
// moe/kernels.h; rows and bases of 16 bytes.
#pragma once

#include "moe/cuda/grouped_products.h"

namespace cadre::moe::cuda {

using Rows = device::View<device::bf16, 2>;
using ConstRows = device::View<const device::bf16, 2>;
using Weights = device::View<const device::bf16, 3>;
using Offsets = device::View<const int64_t, 1>;

void hopper_swiglu(cudaStream_t, ConstRows x, Weights w_gate, Weights w_up, Offsets, Rows gate, Rows up,
                   Rows act);
// dx = b0 w0 + b1 w1
void hopper_dgrad_pair(cudaStream_t, ConstRows b0, Weights w0, ConstRows b1, Weights w1, Offsets, Rows dx);
// partial: (hopper_partials(H), A), the parts of dweight of each tile of columns, still to be added up.
void hopper_swiglu_backward(cudaStream_t, ConstRows dy, Weights w_down, Offsets,
                            device::View<const float, 1> weight, Rows gate, Rows up, Rows out,
                            device::View<float, 2> partial);
int64_t hopper_partials(int64_t width);

}  // namespace cadre::moe::cuda
