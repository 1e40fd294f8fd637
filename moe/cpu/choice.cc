// Who goes where, on the CPU: top-k with groups, expert choice, capacity, and the sorted list of slots.
#include <algorithm>
#include <cassert>
#include <limits>
#include <vector>

#include "moe/cpu/entries.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::Queue;
using device::View;
using device::wide_t;

// Not-a-number counts as -infinity, so that a broken activation still gives K distinct experts and the step
// ends as a non-finite loss and not as a crash.
template <class W>
W ordered(W value) {
  return value == value ? value : -std::numeric_limits<W>::infinity();
}

// A token's selection scores: s + b.
template <class W>
struct Row {
  const W* scores;
  const W* bias;  // null: 0
  W at(int64_t i) const { return ordered(bias ? scores[i] + bias[i] : scores[i]); }
};

// Sum of the two best of a group (DeepSeek-V3; one expert alone counts itself).
template <class W>
W group_score(const Row<W>& row, int64_t begin, int64_t size) {
  W first = row.at(begin), second = -std::numeric_limits<W>::infinity();
  for (int64_t i = begin + 1; i < begin + size; ++i) {
    const W value = row.at(i);
    second = std::max(second, std::min(first, value));
    first = std::max(first, value);
  }
  return size == 1 ? first : first + second;
}

// Bit g is set for the groups that take part; ties go to the lower group.
template <class W>
uint64_t kept_groups(const Row<W>& row, GroupLimit limit, int64_t group_size) {
  if (limit.kept == limit.groups) return ~uint64_t(0);
  uint64_t kept = 0;
  for (int n = 0; n < limit.kept; ++n) {
    int best = -1;
    W best_score = 0;
    for (int g = 0; g < limit.groups; ++g) {
      if (kept >> g & 1) continue;
      const W value = group_score(row, g * group_size, group_size);
      if (best < 0 || value > best_score) best = g, best_score = value;
    }
    kept |= uint64_t(1) << best;
  }
  return kept;
}

// K passes, each for the best that comes after the last one in the order (score falling, index rising).
template <class W>
void top_k_row(const Row<W>& row, int64_t experts, GroupLimit limit, int64_t k, int32_t* chosen) {
  const int64_t group_size = experts / limit.groups;
  const uint64_t kept = kept_groups(row, limit, group_size);
  W last = std::numeric_limits<W>::infinity();
  int64_t last_index = -1;
  for (int64_t j = 0; j < k; ++j) {
    int64_t best = -1;
    W best_score = 0;
    for (int64_t g = 0; g < limit.groups; ++g) {
      if (!(kept >> g & 1)) continue;
      for (int64_t i = g * group_size; i < (g + 1) * group_size; ++i) {
        const W value = row.at(i);
        if (value > last || (value == last && i <= last_index)) continue;
        if (best < 0 || value > best_score) best = i, best_score = value;
      }
    }
    assert(best >= 0);
    chosen[j] = int32_t(best);
    last = best_score, last_index = best;
  }
  std::sort(chosen, chosen + k);
}

template <class T>
void choose_top_k(Queue& queue, View<const wide_t<T>, 2> scores, View<const wide_t<T>, 1> bias,
                  GroupLimit limit, View<const int32_t, 1> segment, View<int32_t, 2> choice) {
  const int64_t k = choice.dim(1);
  cpu(queue).parallel_for(scores.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (segment[t] < 0) {
        std::fill_n(choice[t].data(), k, -1);
      } else {
        top_k_row(Row<wide_t<T>>{scores[t].data(), bias.data()}, scores.dim(1), limit, k, choice[t].data());
      }
    }
  });
}

// Counting sort: stable, so that the slots of an expert are in order of the token.
template <class T>
void top_k_slots(Queue&, View<const int32_t, 2> choice, View<const wide_t<T>, 2> gates, Routing<T>& routing) {
  const int64_t experts = routing.num_experts, k = choice.dim(1);
  std::fill(routing.tally.begin(), routing.tally.end(), 0);
  for (const int32_t e : choice)
    if (e >= 0) ++routing.tally[e];
  auto& offsets = routing.expert_offsets;
  // offsets[e + 1] is first the place of e's next slot, and so ends as the end of e.
  offsets[0] = 0;
  int64_t sum = 0;
  for (int64_t e = 0; e < experts; ++e) {
    offsets[e + 1] = sum;
    sum += routing.tally[e];
  }
  assert(sum == routing.num_slots);
  for (int64_t t = 0; t < choice.dim(0); ++t) {
    for (int64_t j = 0; j < k; ++j) {
      const int32_t e = choice.data()[t * k + j];
      if (e < 0) continue;
      const int64_t slot = offsets[e + 1]++;
      routing.slot_token[slot] = int32_t(t);
      routing.slot_gate[slot] = gates.data()[t * experts + e];
    }
  }
}

template <class T>
void expert_choice_slots(Queue& queue, int64_t capacity, View<const int32_t, 1> segment,
                         View<int32_t, 2> order, const ScoreViews<T>& v, Routing<T>& routing) {
  using W = wide_t<T>;
  const int64_t take = std::min(capacity, routing.num_real);
  assert(routing.num_slots == routing.num_experts * take);
  std::fill(v.gates.begin(), v.gates.end(), W(0));
  cpu(queue).parallel_tasks(routing.num_experts, [&](int64_t e) {
    int32_t* tokens = order[e].data();
    int64_t n = 0;
    for (int64_t t = 0; t < segment.dim(0); ++t)
      if (segment[t] >= 0) tokens[n++] = int32_t(t);
    auto before = [&](int32_t a, int32_t b) {
      const W pa = ordered(v.probs[a][e]), pb = ordered(v.probs[b][e]);
      return pa > pb || (pa == pb && a < b);
    };
    if (take < n) std::nth_element(tokens, tokens + take, tokens + n, before);
    std::sort(tokens, tokens + take);
    for (int64_t i = 0; i < take; ++i) {
      const int32_t t = tokens[i];
      routing.slot_token[e * take + i] = t;
      routing.slot_gate[e * take + i] = v.gates[t][e] = v.probs[t][e];
    }
    routing.tally[e] = take;
    routing.expert_offsets[e + 1] = (e + 1) * take;
  });
  routing.expert_offsets[0] = 0;
  routing.tally[routing.num_experts] = 0;
}

template <class T>
void limit_capacity(Queue&, int64_t capacity, DropPolicy policy, View<int32_t, 1> order,
                    Routing<T>& routing) {
  using W = wide_t<T>;
  int64_t begin = 0, kept_sum = 0;
  for (int64_t e = 0; e < routing.num_experts; ++e) {
    const int64_t end = routing.expert_offsets[e + 1], count = end - begin, kept = std::min(count, capacity);
    int32_t* slots = order.data();
    for (int64_t i = 0; i < count; ++i) slots[i] = int32_t(begin + i);
    if (kept < count && policy == DropPolicy::kLowestProbability) {
      auto before = [&](int32_t a, int32_t b) {
        const W pa = ordered(routing.probs[routing.slot_token[a]][e]),
                pb = ordered(routing.probs[routing.slot_token[b]][e]);
        return pa > pb || (pa == pb && a < b);
      };
      std::nth_element(slots, slots + kept, slots + count, before);
      std::sort(slots, slots + kept);
    }
    // Targets are never behind their sources, so moving forwards in place is safe.
    for (int64_t i = 0; i < kept; ++i) {
      routing.slot_token[kept_sum + i] = routing.slot_token[slots[i]];
      routing.slot_gate[kept_sum + i] = routing.slot_gate[slots[i]];
    }
    begin = end;
    kept_sum += kept;
    routing.expert_offsets[e + 1] = kept_sum;
  }
  routing.tally[routing.num_experts] = routing.num_slots - kept_sum;
  routing.num_slots = kept_sum;
}

}  // namespace

template <class T>
void add_choice_entries(MoeKernels<T>& table) {
  table.choose_top_k = choose_top_k<T>;
  table.top_k_slots = top_k_slots<T>;
  table.expert_choice_slots = expert_choice_slots<T>;
  table.limit_capacity = limit_capacity<T>;
}
template void add_choice_entries(MoeKernels<float>&);
template void add_choice_entries(MoeKernels<double>&);

}  // namespace cadre::moe
