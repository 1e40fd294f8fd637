// The CUDA entries of MoeKernels by file; kernels.cc collects them. Contracts are in moe/kernels.h.
#pragma once

#include "moe/kernels.h"
#include "moe/one_expert.h"
#include "parallel/device/bf16.h"

namespace cadre::moe {

// The CUDA table, for T = float (parity with the CPU) and bf16.
template <class T>
const MoeKernels<T>& cuda_moe_kernels();

namespace cuda {

template <class T>
void add_router_entries(MoeKernels<T>& table);  // router_linear.cu
template <class T>
void add_score_entries(MoeKernels<T>& table);  // scores.cu
template <class T>
void add_choice_entries(MoeKernels<T>& table);  // choice.cu
template <class T>
void add_route_entries(MoeKernels<T>& table);  // route.cu
template <class T>
void add_slot_entries(MoeKernels<T>& table);  // slots.cu
template <class T>
void add_hint_entries(MoeKernels<T>& table);  // hints.cu
template <class T>
void add_balance_entries(MoeKernels<T>& table);  // balance.cu
template <class T>
void add_row_entries(MoeKernels<T>& table);  // rows.cu
template <class T>
void add_rank_slot_entries(MoeKernels<T>& table);  // rank_slots.cu
template <class T>
void add_peer_entries(MoeKernels<T>& table);  // peer_rows.cu
template <class T>
void add_expert_entries(MoeKernels<T>& table);  // experts.cc
bool has_wgmma();                               // of this GPU: sm_90a alone, not what came after
// one_expert.cc
const OneExpert<device::bf16>* hopper_one_expert(int64_t rows,
                                                 std::span<const device::View<const device::bf16, 2>>);

}  // namespace cuda
}  // namespace cadre::moe
