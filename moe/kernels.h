// The table of kernels that only experts need, one entry per operation; DeviceKernels has the dense ones. The
// CPU entries are the readable reference. Shapes: T tokens, D model, E experts, K top-k, A slots, R rows, H
// expert width, r hint width. No kernel allocates memory that grows with T. Results depend on the arguments
// and the queue's thread count alone. Views are of device memory, which the host never reads: A is what the
// host knows, an upper bound, and expert_offsets on the device says how many slots there are. No entry waits.
#pragma once

#include <span>

#include "moe/config.h"
#include "moe/routing.h"
#include "parallel/device/peer.h"
#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::moe {

// How logits become scores s, and scores become gates g of the chosen set C.
struct ScoreRule {
  enum Kind { kSoftmax, kSigmoid } kind = kSoftmax;
  bool share = true;  // g_i = scale * s_i / (sum of s over C + 1e-20); false: g_i = scale * s_i
  double scale = 1;
};

// Group-limited choice: experts in `groups` equal runs; only the `kept` best groups take part (DeepSeek-V3,
// section 2.1.2).
struct GroupLimit {
  int groups = 1, kept = 1;
};

// Everything that a router keeps between logits and gates, for one micro-batch. Rows of padding are 0.
template <class T>
struct ScoreViews {
  using W = device::wide_t<T>;
  device::View<W, 2> logits;  // (T, E) z
  device::View<W, 2> scores;  // (T, E) s; the same memory as probs for softmax
  device::View<W, 2> probs;   // (T, E) s normalised over E
  device::View<W, 2> gates;   // (T, E) g, before capacity; 0 outside the chosen set
  device::View<W, 1> lse;     // (T) logsumexp of z
};

// The slots of P ranks, each as its Routing has them, in tables of S places.
template <class T>
struct RankSlots {
  int first_expert = 0;                           // of this rank's
  int64_t max_tokens = 0;                         // a rank's token t has row rank * max_tokens + t
  device::View<const int32_t, 2> token;           // (P, S)
  device::View<const device::wide_t<T>, 2> gate;  // (P, S)
  device::View<const int64_t, 2> offsets;         // (P, E + 1)
};
// Where the slots of this rank's experts come from, and what they read.
template <class T>
struct SlotPlaces {
  device::View<int64_t, 1> offsets;         // (E_local + 1)
  device::View<int32_t, 1> row, source;     // (A); source: rank * S + slot
  device::View<device::wide_t<T>, 1> gate;  // (A)
  // (P + 1, E_local) the first slot of a local expert that comes from rank r or a later one; empty: not wanted.
  device::View<int64_t, 2> rank_begins = {};
};

// One array of every rank of a group, as this rank reads it (parallel/comm/peer_memory.h).
template <class U>
struct PeerArrays {
  const U* of[device::kMostPeers] = {};
  int ranks = 0, self = 0;
};
// What each rank's stage_slots wrote.
template <class T>
struct PeerSlots {
  PeerArrays<int64_t> offsets;         // (E + 1)
  PeerArrays<int32_t> token;           // (S)
  PeerArrays<device::wide_t<T>> gate;  // (S)
};
// Of this rank's routing, in memory that others read.
template <class T>
struct StagedSlots {
  device::View<int64_t, 1> offsets;
  device::View<int32_t, 1> token;
  device::View<device::wide_t<T>, 1> gate;
};

template <class T>
struct OneExpert;  // moe/one_expert.h

template <class T>
struct MoeKernels {
  using W = device::wide_t<T>;
  template <class U, int N>
  using View = device::View<U, N>;
  using Queue = device::Queue;

  // ---- Routers ----
  // logits (T, E) = x w^T in wide_t; w: (E, D).
  void (*router_linear)(Queue&, View<const T, 2> x, View<const T, 2> w, View<W, 2> logits);
  // dx += dlogits w; dw += dlogits^T x.
  void (*router_linear_backward)(Queue&, View<const W, 2> dlogits, View<const T, 2> x, View<const T, 2> w,
                                 View<T, 2> dx, View<T, 2> dw);
  // Fills scores, probs and lse from logits.
  void (*score)(Queue&, ScoreRule, View<const int32_t, 1> segment, const ScoreViews<T>&);
  // The K best of scores + bias (bias empty: 0) in rising order of the expert; ties go to the lower index,
  // NaN counts as -infinity. choice rows of padding are -1.
  void (*choose_top_k)(Queue&, View<const W, 2> scores, View<const W, 1> bias, GroupLimit,
                       View<const int32_t, 1> segment, View<int32_t, 2> choice);
  void (*top_k_gates)(Queue&, ScoreRule, View<const int32_t, 2> choice, const ScoreViews<T>&);
  // What score, choose_top_k and top_k_gates do one after the other, with the same bits. False, and nothing is done, where it
  // cannot. Null: never.
  bool (*route_top_k)(Queue&, ScoreRule, View<const W, 1> bias, GroupLimit, View<const int32_t, 1> segment,
                      const ScoreViews<T>&, View<int32_t, 2> choice);
  // Slots by expert and token from choice and gates; fills expert_offsets, slot_token, slot_gate and tally
  // (nothing dropped). num_slots is set already.
  void (*top_k_slots)(Queue&, View<const int32_t, 2> choice, View<const W, 2> gates, Routing<T>&);
  // top_k_slots, and what slots_by_row would make of its slot_token: routing.row_offsets and row_slots, which are set. For rows
  // of choice that are all -1 or experts in rising order, at most kFewTokens of them. False, and nothing is done, where it cannot.
  // Null: never.
  static constexpr int64_t kFewTokens = 1024;
  bool (*top_k_slots_by_row)(Queue&, View<const int32_t, 2> choice, View<const W, 2> gates, Routing<T>&);
  // Expert choice: every expert takes its `capacity` best tokens of probs, at most all real ones, g = p; ties
  // to the lower token. order: (E, T) scratch. Fills gates and the same parts of the routing.
  void (*expert_choice_slots)(Queue&, int64_t capacity, View<const int32_t, 1> segment,
                              View<int32_t, 2> order, const ScoreViews<T>&, Routing<T>&);
  // Keeps at most `capacity` slots of each expert and counts the rest in routing.tally[E]. order: (A) scratch.
  // Slots from expert_offsets[E] on get token -1 and gate 0; a device that is the host lowers num_slots.
  void (*limit_capacity)(Queue&, int64_t capacity, DropPolicy, View<int32_t, 1> order, Routing<T>&);
  // dlogits (T, E) from dL/dg by slot, dL/dp (empty: none) and the z-loss. Exact for the gates before
  // capacity.
  void (*score_backward)(Queue&, ScoreRule, const Routing<T>&, const ScoreViews<T>&, const RoutingGrad<T>&,
                         View<W, 2> dlogits);
  // sum[0] += scale * (sum of squares of the values), in a fixed order.
  void (*add_squares)(Queue&, View<const W, 1> values, double scale, View<double, 1> sum);

  // ---- Hints: h (T, E, r), one block an expert ----
  void (*block_norms)(Queue&, View<const T, 3> h, View<const int32_t, 1> segment, View<W, 2> norms);
  void (*gather_hints)(Queue&, View<const T, 3> h, const Routing<T>&, View<T, 2> slot_hint);
  // In place: h becomes dL/dh = dnorm * h / norm (0 where the norm is 0) + dL/dhint of the block's slot.
  void (*block_norms_backward)(Queue&, View<const W, 2> dnorms, View<const W, 2> norms, const Routing<T>&,
                               View<const T, 2> dslot_hint, View<T, 3> h);

  // ---- Balance losses ----
  // sums (S, E): probs summed over the tokens of each run of seq_len tokens, in double.
  void (*sequence_sums)(Queue&, View<const W, 2> probs, int64_t seq_len, View<double, 2> sums);
  // sums += counts.
  void (*add_counts)(Queue&, View<const int64_t, 1> counts, View<double, 1> sums);
  // rates[e] = scale * load[e] / (sum of load), 0 when nothing has a load.
  void (*load_rates)(Queue&, View<const double, 1> load, double scale, View<double, 1> rates);
  // rates (S, E): scale / (K n^2 sequences) times the number of choices of each expert among the n real tokens
  // of a run of seq_len tokens; 0 where there is none. choice: (T, K).
  void (*sequence_rates)(Queue&, View<const int32_t, 2> choice, View<const int32_t, 1> segment,
                         int64_t seq_len, double scale, double sequences, View<double, 2> rates);
  // sum[0] += <a, b>, in a fixed order.
  void (*add_dot)(Queue&, View<const double, 2> a, View<const double, 2> b, View<double, 1> sum);
  // dprobs[t] = rate[t / seq_len] for real tokens, 0 for padding.
  void (*sequence_grads)(Queue&, View<const double, 2> rate, View<const int32_t, 1> segment, int64_t seq_len,
                         View<W, 2> dprobs);

  // ---- Rows. An index of -1 marks a slot behind the last one: its row of `out` is unspecified ----
  void (*gather_rows)(Queue&, View<const T, 2> x, View<const int32_t, 1> index, View<T, 2> out);
  // out[i] = (accumulate ? out[i] : 0) + sum over j in [offsets[i], offsets[i + 1]) of weight[index[j]] *
  // rows[index[j]], in the order of j; an empty weight means 1.
  void (*combine_rows)(Queue&, View<const T, 2> rows, View<const int32_t, 1> offsets,
                       View<const int32_t, 1> index, View<const W, 1> weight, bool accumulate,
                       View<T, 2> out);

  // The same, rounded to T, and then plus[i] added: what combine_rows and DeviceKernels::add do, with the same bits. Null: not
  // there.
  void (*combine_rows_onto)(Queue&, View<const T, 2> rows, View<const int32_t, 1> offsets,
                            View<const int32_t, 1> index, View<const W, 1> weight, bool accumulate,
                            View<const T, 2> plus, View<T, 2> out);

  // The inverse of slot_row, entries of -1 left out: slots of row i, rising, are row_slots[row_offsets[i] .. row_offsets[i + 1]).
  void (*slots_by_row)(Queue&, View<const int32_t, 1> slot_row, View<int32_t, 1> row_offsets,
                       View<int32_t, 1> row_slots);

  // ---- Slots of several ranks (moe/gather_dispatch.h) ----
  // Sorts the slots that belong to this rank's experts by expert, then by rank, and fills places. Behind the last one
  // row and source are -1 and the gate 0.
  void (*place_slots)(Queue&, const RankSlots<T>&, const SlotPlaces<T>& places);
  // to[source[a]] = from[a] where source is not -1.
  void (*scatter_gates)(Queue&, View<const W, 1> from, View<const int32_t, 1> source, View<W, 2> to);
  // gates[a] = by_rank[r][a], r the rank that holds slot a's expert; offsets: (E + 1). Slots behind the last one stay
  // unspecified.
  void (*collect_gates)(Queue&, View<const W, 2> by_rank, View<const int64_t, 1> offsets, View<W, 1> gates);

  // gates[a] = sum of by_rank[r][a] over r, in rank order: where ranks share widths. As above behind the last slot.
  void (*sum_gates)(Queue&, View<const W, 2> by_rank, View<const int64_t, 1> offsets, View<W, 1> gates);

  // ---- Rows and slots of other ranks, read where they are (moe/peer_dispatch.h). P ranks hold E / P experts each ----
  void (*copy_rows)(Queue&, View<const T, 2> from, View<T, 2> to);
  // Copies the routing's offsets and the slots that exist. takes (P, T max): 1 where rank r holds an expert of token t, else
  // 0, also behind the routing's tokens; empty: not wanted.
  void (*stage_slots)(Queue&, const Routing<T>&, const StagedSlots<T>& to, View<uint8_t, 2> takes);
  // All offsets (P, E + 1), and of each rank the slots of `local` experts from first_expert on, at the places (P, S) where
  // they stand there; the other places stay as they are.
  void (*pull_slots)(Queue&, const PeerSlots<T>& from, int first_expert, int local, View<int64_t, 2> offsets,
                     View<int32_t, 2> token, View<W, 2> gate);
  // Row r * T + t of out (P T, D) becomes row t of rank r where row_offsets (P T + 1) has slots for it; others stay.
  void (*pull_rows)(Queue&, const PeerArrays<T>& from, View<const int32_t, 1> row_offsets, View<T, 2> out);
  // out[t] = (accumulate ? out[t] : 0) + sum of row t of the ranks r with takes[r][t], in rank order.
  void (*pull_sums)(Queue&, const PeerArrays<T>& from, View<const uint8_t, 2> takes, bool accumulate,
                    View<T, 2> out);
  // collect_gates of arrays (S) of the ranks.
  void (*pull_gates)(Queue&, const PeerArrays<W>& from, View<const int64_t, 1> offsets, View<W, 1> gates);

  // Once, where collectives run beside what the queue does; null: makes no difference.
  void (*let_others_run)(Queue&);

  // ---- Experts: rows [offsets[e], offsets[e + 1]) belong to local expert e; rows behind the last one, up to
  // the views' sizes, are unspecified in results and never enter one ----
  // y = a w^T; a: (A, in), w: (E, out, in), y: (A, out).
  void (*grouped_gemm)(Queue&, View<const T, 2> a, View<const T, 3> w, View<const int64_t, 1> offsets,
                       View<T, 2> y);
  // For rows [begins[e], ends[e]) alone, with the same bits; others stay. Null where they depend on how many there are.
  void (*grouped_gemm_between)(Queue&, View<const T, 2> a, View<const T, 3> w, View<const int64_t, 1> begins,
                               View<const int64_t, 1> ends, View<T, 2> y);
  // da = (accumulate ? da : 0) + b w.
  void (*grouped_dgrad)(Queue&, View<const T, 2> b, View<const T, 3> w, View<const int64_t, 1> offsets,
                        bool accumulate, View<T, 2> da);
  // dw[e] = (accumulate ? dw[e] : 0) + b^T a over the rows of e, also for an expert without rows.
  void (*grouped_wgrad)(Queue&, View<const T, 2> b, View<const T, 2> a, View<const int64_t, 1> offsets,
                        bool accumulate, View<T, 3> dw);
  // gate = x w_gate^T, up = x w_up^T, act = silu(gate) * up.
  void (*grouped_swiglu)(Queue&, View<const T, 2> x, View<const T, 3> w_gate, View<const T, 3> w_up,
                         View<const int64_t, 1> offsets, View<T, 2> gate, View<T, 2> up, View<T, 2> act);
  // Ahead of a grouped_swiglu of at most `rows` rows, few enough that it waits for its weights: the first ones begin to
  // come into the device's cache, beside what is queued meanwhile. Null where that gains nothing.
  void (*expect_swiglu)(Queue&, int64_t rows, View<const T, 3> w_gate, View<const T, 3> w_up);
  // Back through the last matrix, the gate factor and the activation a = silu(gate) * up. With o = dy w_down,
  // which is dL/d(weight * a): dweight[i] = <o[i], a[i]> (so the experts' outputs need not be kept), gate and
  // up become their gradients, and out becomes weight * a, the factor of w_down's gradient.
  void (*grouped_swiglu_backward)(Queue&, View<const T, 2> dy, View<const T, 3> w_down,
                                  View<const int64_t, 1> offsets, View<const W, 1> weight, View<T, 2> gate,
                                  View<T, 2> up, View<T, 2> out, View<W, 1> dweight);
  // dx = b0 w0 + b1 w1.
  void (*grouped_dgrad_pair)(Queue&, View<const T, 2> b0, View<const T, 3> w0, View<const T, 2> b1,
                             View<const T, 3> w1, View<const int64_t, 1> offsets, View<T, 2> dx);

  // What one_expert() answers; null where that is always null.
  const OneExpert<T>* (*one_expert)(int64_t rows, std::span<const View<const T, 2>> operands);
};

template <class T>
const MoeKernels<T>& cpu_moe_kernels();
// The table for a device; throws Error(kUsage) when this build has none for it and this type.
template <class T>
const MoeKernels<T>& moe_kernels(device::DeviceKind device);

}  // namespace cadre::moe
