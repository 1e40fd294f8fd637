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
void add_expert_entries(MoeKernels<T>& table);  // grouped_gemm.cc

// Tokens or rows that one thread takes at least: below this, starting a thread costs more than the work.
inline constexpr int64_t kRowGrain = 64;

// sum of a[i] b[i] in eight partial sums, so that it is vectorised in a fixed order.
template <class T>
device::wide_t<T> dot(const T* a, const T* b, int64_t n) {
  using W = device::wide_t<T>;
  constexpr int kLanes = 8;
  W lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += W(a[i + l]) * W(b[i + l]);
  for (; i < n; ++i) lanes[i % kLanes] += W(a[i]) * W(b[i]);
  W sum = 0;
  for (const W lane : lanes) sum += lane;
  return sum;
}

}  // namespace cadre::moe
