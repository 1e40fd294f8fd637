// Norms of the blocks of an expert's first activation, for routers that rank experts by them, on the CPU.
#include <algorithm>
#include <cmath>

#include "moe/cpu/entries.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::Queue;
using device::View;
using device::wide_t;

template <class T>
void block_norms(Queue& queue, View<const T, 3> h, View<const int32_t, 1> segment, View<wide_t<T>, 2> norms) {
  using W = wide_t<T>;
  const int64_t width = h.dim(2);
  cpu(queue).parallel_for(h.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t e = 0; e < h.dim(1); ++e) {
        const T* block = h[t][e].data();
        W sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; ++i) sum += W(block[i]) * W(block[i]);
        norms[t][e] = segment[t] < 0 ? W(0) : std::sqrt(sum);
      }
    }
  });
}

template <class T>
void gather_hints(Queue& queue, View<const T, 3> h, const Routing<T>& routing, View<T, 2> slot_hint) {
  const int64_t width = h.dim(2);
  cpu(queue).parallel_tasks(routing.num_experts, [&](int64_t e) {
    for (int64_t a = routing.expert_offsets[e]; a < routing.expert_offsets[e + 1]; ++a)
      std::copy_n(h[routing.slot_token[a]][e].data(), width, slot_hint[a].data());
  });
}

template <class T>
void block_norms_backward(Queue& queue, View<const wide_t<T>, 2> dnorms, View<const wide_t<T>, 2> norms,
                          const Routing<T>& routing, View<const T, 2> dslot_hint, View<T, 3> h) {
  using W = wide_t<T>;
  const int64_t width = h.dim(2);
  cpu(queue).parallel_for(h.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t e = 0; e < h.dim(1); ++e) {
        const W norm = norms[t][e], factor = norm > 0 ? dnorms[t][e] / norm : W(0);
        T* block = h[t][e].data();
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) block[i] = T(factor * W(block[i]));
      }
    }
  });
  if (dslot_hint.empty()) return;
  cpu(queue).parallel_tasks(routing.num_experts, [&](int64_t e) {
    for (int64_t a = routing.expert_offsets[e]; a < routing.expert_offsets[e + 1]; ++a) {
      const auto out = h[routing.slot_token[a]][e];
      for (int64_t i = 0; i < width; ++i) out[i] += dslot_hint[a][i];
    }
  });
}

}  // namespace

template <class T>
void add_hint_entries(MoeKernels<T>& table) {
  table.block_norms = block_norms<T>;
  table.gather_hints = gather_hints<T>;
  table.block_norms_backward = block_norms_backward<T>;
}
template void add_hint_entries(MoeKernels<float>&);
template void add_hint_entries(MoeKernels<double>&);

}  // namespace cadre::moe
