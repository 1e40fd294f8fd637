// The CPU entries of MoeKernels by file; kernels.cc collects them. Contracts are in moe/kernels.h.
#pragma once

#include "moe/kernels.h"

namespace cadre::moe {

template <class T>
void add_score_entries(MoeKernels<T>& table);  // scores.cc
template <class T>
void add_choice_entries(MoeKernels<T>& table);  // choice.cc
template <class T>
void add_hint_entries(MoeKernels<T>& table);  // hints.cc
template <class T>
void add_balance_entries(MoeKernels<T>& table);  // balance.cc
template <class T>
void add_row_entries(MoeKernels<T>& table);  // rows.cc
template <class T>
void add_rank_slot_entries(MoeKernels<T>& table);  // rank_slots.cc
template <class T>
void add_peer_entries(MoeKernels<T>& table);  // peer_rows.cc
template <class T>
void add_expert_entries(MoeKernels<T>& table);  // grouped_gemm.cc

// Tokens or rows that one thread takes at least: below this, starting a thread costs more than the work.
inline constexpr int64_t kRowGrain = 64;

}  // namespace cadre::moe
