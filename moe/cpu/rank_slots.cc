// The slots of several ranks on the CPU.
#include <algorithm>

#include "moe/cpu/entries.h"

namespace cadre::moe {
namespace {

using device::Queue;
using device::View;
using device::wide_t;

template <class T>
void place_slots(Queue&, const RankSlots<T>& slots, const SlotPlaces<T>& places) {
  const int64_t ranks = slots.token.dim(0), width = slots.token.dim(1), local = places.offsets.dim(0) - 1;
  int64_t next = 0;
  for (int64_t e = 0; e < local; ++e) {
    places.offsets[e] = next;
    for (int64_t r = 0; r < ranks; ++r) {
      if (!places.rank_begins.empty()) places.rank_begins[r][e] = next;
      const int64_t end = slots.offsets[r][slots.first_expert + e + 1];
      for (int64_t a = slots.offsets[r][slots.first_expert + e]; a < end; ++a, ++next) {
        places.row[next] = int32_t(r * slots.max_tokens + slots.token[r][a]);
        places.source[next] = int32_t(r * width + a);
        places.gate[next] = slots.gate[r][a];
      }
    }
    if (!places.rank_begins.empty()) places.rank_begins[ranks][e] = next;
  }
  places.offsets[local] = next;
  std::fill(places.row.begin() + next, places.row.end(), -1);
  std::fill(places.source.begin() + next, places.source.end(), -1);
  std::fill(places.gate.begin() + next, places.gate.end(), wide_t<T>(0));
}

template <class W>
void scatter_gates(Queue&, View<const W, 1> from, View<const int32_t, 1> source, View<W, 2> to) {
  for (int64_t a = 0; a < source.size(); ++a)
    if (source[a] >= 0) to.data()[source[a]] = from[a];
}

template <class W>
void collect_gates(Queue&, View<const W, 2> by_rank, View<const int64_t, 1> offsets, View<W, 1> gates) {
  const int64_t ranks = by_rank.dim(0), local = (offsets.dim(0) - 1) / ranks;
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t a = offsets[r * local]; a < offsets[(r + 1) * local]; ++a) gates[a] = by_rank[r][a];
  }
}

template <class W>
void sum_gates(Queue&, View<const W, 2> by_rank, View<const int64_t, 1> offsets, View<W, 1> gates) {
  for (int64_t a = 0; a < offsets[offsets.dim(0) - 1]; ++a) {
    gates[a] = 0;
    for (int64_t r = 0; r < by_rank.dim(0); ++r) gates[a] += by_rank[r][a];
  }
}

}  // namespace

template <class T>
void add_rank_slot_entries(MoeKernels<T>& table) {
  table.place_slots = place_slots<T>;
  table.scatter_gates = scatter_gates<wide_t<T>>;
  table.collect_gates = collect_gates<wide_t<T>>;
  table.sum_gates = sum_gates<wide_t<T>>;
}
template void add_rank_slot_entries(MoeKernels<float>&);
template void add_rank_slot_entries(MoeKernels<double>&);

}  // namespace cadre::moe
