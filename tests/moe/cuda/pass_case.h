// One layer's kernels of a pass of generation, in rounds over the same memory.
#pragma once

#include "tests/moe/cuda/side.h"

namespace cadre::moe {

// then(): called between kernels; run(pass): queues a round. Results of all rounds: the layer's output and its slots.
template <class T, class X, class Then, class Run>
Results rounds_of_a_layer(Side<X>& s, int64_t rounds, const Then& then, const Run& run) {
  constexpr int64_t kExperts = 24, kTopK = 5, kDim = 136, kRows = 64, kWidth = 136;
  // The last row is padding. A device's slots are as many as there may be, the CPU's as many as there are.
  const int64_t most = (kRows - (s.queue.kind() == device::DeviceKind::kCpu)) * kTopK;
  using W = typename Side<X>::W;
  const auto values = [&](int64_t n, uint64_t key) { return numbers<T>(size_t(n), key, 0.1); };
  const auto x = s.template poison<X, 2>({kRows, kDim});
  const auto w = s.template put<X, 2>(values(kExperts * kDim, 1), {kExperts, kDim});
  const auto gate_up = [&](uint64_t key) {
    return s.template put<X, 3>(values(kExperts * kWidth * kDim, key), {kExperts, kWidth, kDim});
  };
  const auto w_gate = gate_up(2), w_up = gate_up(3);
  const auto w_down = s.template put<X, 3>(values(kExperts * kWidth * kDim, 4), {kExperts, kDim, kWidth});
  const auto matrix = [&] { return s.template poison<W, 2>({kRows, kExperts}); };
  const auto logits = matrix(), probs = matrix(), gates = matrix();
  const ScoreViews<X> v{logits, probs, probs, gates, s.template poison<W, 1>({kRows})};
  std::vector<double> segment(kRows, 0);
  segment.back() = -1;
  const auto segment_view = s.template put<int32_t, 1>(segment, {kRows});
  Routing<X> r;
  r.num_tokens = kRows;
  r.num_experts = kExperts;
  r.num_slots = most;
  r.choice = s.template poison<int32_t, 2>({kRows, kTopK});
  r.expert_offsets = s.template poison<int64_t, 1>({kExperts + 1});
  r.tally = s.template poison<int64_t, 1>({kExperts + 1});
  r.slot_token = s.template poison<int32_t, 1>({most});
  r.slot_gate = s.template poison<W, 1>({most});
  const auto offsets = s.template poison<int32_t, 1>({kRows + 1});
  const auto slots = s.template poison<int32_t, 1>({most});
  const auto gathered = s.template poison<X, 2>({most, kDim}), out = s.template poison<X, 2>({most, kDim});
  const auto hidden = [&] { return s.template poison<X, 2>({most, kWidth}); };
  const auto gate = hidden(), up = hidden(), act = hidden();
  const auto y = s.template poison<X, 2>({kRows, kDim});
  const auto pass = [&] {
    if (s.table.expect_swiglu != nullptr) s.table.expect_swiglu(s.queue, most, w_gate, w_up);
    then();
    s.table.router_linear(s.queue, x, w, logits);
    then();
    if (s.table.route_top_k != nullptr) {
      s.table.route_top_k(s.queue, {}, {}, {}, segment_view, v, r.choice);
    } else {
      s.table.score(s.queue, {}, segment_view, v);
      s.table.choose_top_k(s.queue, v.scores, {}, {}, segment_view, r.choice);
      s.table.top_k_gates(s.queue, {}, r.choice, v);
    }
    then();
    if (s.table.top_k_slots_by_row != nullptr) {
      r.row_offsets = offsets;
      r.row_slots = slots;
      s.table.top_k_slots_by_row(s.queue, r.choice, gates, r);
    } else {
      s.table.top_k_slots(s.queue, r.choice, gates, r);
      s.table.slots_by_row(s.queue, r.slot_token, offsets, slots);
    }
    then();
    s.table.gather_rows(s.queue, x, r.slot_token, gathered);
    then();
    s.table.grouped_swiglu(s.queue, gathered, w_gate, w_up, r.expert_offsets, gate, up, act);
    then();
    s.table.grouped_gemm(s.queue, act, w_down, r.expert_offsets, out);
    then();
    s.table.combine_rows(s.queue, out, offsets, slots, r.slot_gate, false, y);
  };
  Results results;
  for (int64_t round = 0; round < rounds; ++round) {
    const auto tokens = numbers<T>(kRows * kDim, uint64_t(10 + round));
    std::vector<X> host(tokens.size());
    std::transform(tokens.begin(), tokens.end(), host.begin(), [](double v) { return X(v); });
    s.queue.upload(host.data(), x.data(), host.size() * sizeof(X));
    run(pass);
    results.push_back(s.get(y));
    results.push_back(s.get(r.slot_token.rows(0, (kRows - 1) * kTopK)));
  }
  return results;
}

}  // namespace cadre::moe
