// Rows and slots of other ranks on the CPU.
#include <algorithm>

#include "moe/cpu/entries.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::Queue;
using device::View;
using device::wide_t;

template <class T>
void copy_rows(Queue&, View<const T, 2> from, View<T, 2> to) {
  std::copy_n(from.data(), from.size(), to.data());
}

template <class T>
void stage_slots(Queue&, const Routing<T>& routing, const StagedSlots<T>& to, View<uint8_t, 2> takes) {
  const int64_t slots = routing.expert_offsets[routing.num_experts];
  std::copy_n(routing.expert_offsets.data(), routing.num_experts + 1, to.offsets.data());
  std::copy_n(routing.slot_token.data(), slots, to.token.data());
  std::copy_n(routing.slot_gate.data(), slots, to.gate.data());
  if (takes.empty()) return;
  const int64_t local = routing.num_experts / takes.dim(0);
  std::fill(takes.begin(), takes.end(), uint8_t(0));
  for (int64_t e = 0; e < routing.num_experts; ++e)
    for (int64_t a = routing.expert_offsets[e]; a < routing.expert_offsets[e + 1]; ++a)
      takes[e / local][routing.slot_token[a]] = 1;
}

template <class T>
void pull_slots(Queue&, const PeerSlots<T>& from, int first_expert, int local, View<int64_t, 2> offsets,
                View<int32_t, 2> token, View<wide_t<T>, 2> gate) {
  for (int r = 0; r < from.offsets.ranks; ++r) {
    const int64_t* theirs = from.offsets.of[r];
    std::copy_n(theirs, offsets.dim(1), offsets[r].data());
    const int64_t begin = theirs[first_expert], count = theirs[first_expert + local] - begin;
    std::copy_n(from.token.of[r] + begin, count, token[r].data() + begin);
    std::copy_n(from.gate.of[r] + begin, count, gate[r].data() + begin);
  }
}

template <class T>
void pull_rows(Queue& queue, const PeerArrays<T>& from, View<const int32_t, 1> row_offsets, View<T, 2> out) {
  const int64_t width = out.dim(1), tokens = out.dim(0) / from.ranks;
  cpu(queue).parallel_for(out.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      if (row_offsets[row + 1] > row_offsets[row])
        std::copy_n(from.of[row / tokens] + row % tokens * width, width, out.data() + row * width);
  });
}

template <class T>
void pull_sums(Queue& queue, const PeerArrays<T>& from, View<const uint8_t, 2> takes, bool accumulate,
               View<T, 2> out) {
  const int64_t width = out.dim(1);
  cpu(queue).parallel_for(out.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T* to = out.data() + t * width;
      if (!accumulate) std::fill_n(to, width, T(0));
      for (int r = 0; r < from.ranks; ++r) {
        if (takes[r][t] == 0) continue;
        const T* row = from.of[r] + t * width;
        for (int64_t d = 0; d < width; ++d) to[d] += row[d];
      }
    }
  });
}

template <class W>
void pull_gates(Queue&, const PeerArrays<W>& from, View<const int64_t, 1> offsets, View<W, 1> gates) {
  const int64_t local = (offsets.dim(0) - 1) / from.ranks;
  for (int r = 0; r < from.ranks; ++r)
    for (int64_t a = offsets[r * local]; a < offsets[(r + 1) * local]; ++a) gates[a] = from.of[r][a];
}

}  // namespace

template <class T>
void add_peer_entries(MoeKernels<T>& table) {
  table.copy_rows = copy_rows<T>;
  table.stage_slots = stage_slots<T>;
  table.pull_slots = pull_slots<T>;
  table.pull_rows = pull_rows<T>;
  table.pull_sums = pull_sums<T>;
  table.pull_gates = pull_gates<wide_t<T>>;
}
template void add_peer_entries(MoeKernels<float>&);
template void add_peer_entries(MoeKernels<double>&);

}  // namespace cadre::moe
