// The forms of sm_90a that do more than one product of grouped_products.h at a time. Contracts in
// moe/kernels.h; rows and bases of 16 bytes. Empty offsets: one group of all rows.
#pragma once

#include <span>

#include "moe/cuda/grouped_products.h"
#include "moe/one_expert.h"

namespace cadre::moe::cuda {

using Rows = device::View<device::bf16, 2>;
using ConstRows = device::View<const device::bf16, 2>;
using Weights = device::View<const device::bf16, 3>;
using Offsets = device::View<const int64_t, 1>;

void hopper_swiglu(cudaStream_t, ConstRows x, Weights w_gate, Weights w_up, Offsets, Rows gate, Rows up,
                   Rows act);
// Of a hopper_swiglu to come, see MoeKernels::expect_swiglu.
void hopper_expect_swiglu(cudaStream_t, int64_t rows, Weights w_gate, Weights w_up);
struct HopperTerm {
  ConstRows b;
  Weights w;
};
inline constexpr size_t kMostTerms = 3;
// dx = the sum of b w over 1 to kMostTerms terms, rounded once.
void hopper_dgrad_sum(cudaStream_t, std::span<const HopperTerm> terms, Offsets, Rows dx);
// partial: (hopper_partials(H), A), the parts of dweight of each tile of columns, still to be added up.
void hopper_swiglu_backward(cudaStream_t, ConstRows dy, Weights w_down, Offsets,
                            device::View<const float, 1> weight, Rows gate, Rows up, Rows out,
                            device::View<float, 2> partial);
// The same with weights of 1, without out and partial.
void hopper_dense_swiglu_backward(cudaStream_t, ConstRows dy, Weights w_down, Offsets, Rows gate, Rows up);
int64_t hopper_partials(int64_t width);
using Wgrads = std::span<const Wgrad<device::bf16>>;
void hopper_wgrads(cudaStream_t, Wgrads layers, bool accumulate);
// Whether these, in one launch, take fewer waves of `blocks` tiles than one after the other, and nearly full ones.
bool fill_waves_together(Wgrads layers, int blocks);

}  // namespace cadre::moe::cuda
