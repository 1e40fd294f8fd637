// What the entries of routers and rows must do, for fixtures that run a body on two sides (side.h).
#pragma once

#include "tests/moe/cuda/side.h"

namespace cadre::moe {

using device::View;

inline constexpr int64_t kTokens = 203, kExperts = 24, kTopK = 5, kDim = 136, kSlots = kTokens * kTopK;
inline constexpr double kFloatBound = 0x1p-18;  // some exponentials and sums of 24 terms in fp32

inline std::vector<double> segments() {
  std::vector<double> segment(kTokens, 0);
  for (int64_t t = 0; t < kTokens; t += 13) segment[size_t(t)] = -1;
  return segment;
}
inline int64_t real_tokens() {
  const auto s = segments();
  return std::count(s.begin(), s.end(), 0.0);
}

// With equal scores in many rows, and a row of NaN.
inline std::vector<double> logits() {
  auto z = numbers<float>(kTokens * kExperts, 5, 2);
  for (int64_t t = 0; t < kTokens; t += 3)
    for (int64_t e = 0; e < kExperts; ++e) z[size_t(t * kExperts + e)] = double((e * 7 + t) % 4);
  for (int64_t e = 0; e < kExperts; ++e) z[size_t(17 * kExperts + e)] = std::nan("");
  return z;
}

template <class X>
struct RouterState {
  using W = device::wide_t<X>;
  RouterState(Side<X>& s, bool one_matrix) {
    v.logits = s.template put<W, 2>(logits(), {kTokens, kExperts});
    v.probs = s.template poison<W, 2>({kTokens, kExperts});
    v.scores = one_matrix ? v.probs : s.template poison<W, 2>({kTokens, kExperts});
    v.gates = s.template poison<W, 2>({kTokens, kExperts});
    v.lse = s.template poison<W, 1>({kTokens});
    segment = s.template put<int32_t, 1>(segments(), {kTokens});
    r.num_tokens = kTokens;
    r.num_experts = kExperts;
    r.num_real = real_tokens();
    r.num_slots = r.num_real * kTopK;
    r.probs = v.probs;
    r.choice = s.template poison<int32_t, 2>({kTokens, kTopK});
    r.expert_offsets = s.template poison<int64_t, 1>({kExperts + 1});
    r.tally = s.template poison<int64_t, 1>({kExperts + 1});
    r.slot_token = s.template poison<int32_t, 1>({kSlots});
    r.slot_gate = s.template poison<W, 1>({kSlots});
  }
  // What says who goes where, of the slots that exist.
  void results(Side<X>& s, Results& out) {
    const auto offsets = s.get(r.expert_offsets);
    const auto slots = int64_t(offsets[kExperts]);
    out.push_back(offsets);
    out.push_back(s.get(r.tally));
    out.push_back(s.get(r.slot_token.rows(0, slots)));
    out.push_back(s.get(r.slot_gate.rows(0, slots)));
  }
  ScoreViews<X> v;
  View<const int32_t, 1> segment;
  Routing<X> r;
};

struct RuleCase {
  const char* name;
  ScoreRule rule;
  GroupLimit limit;
  bool bias;
};
inline const RuleCase kRules[] = {
    {"mixtral", {ScoreRule::kSoftmax, true, 1}, {}, false},
    {"olmoe", {ScoreRule::kSoftmax, false, 1}, {}, false},
    {"deepseek", {ScoreRule::kSigmoid, true, 2.5}, {8, 4}, true},
    {"sigmoid", {ScoreRule::kSigmoid, false, 1}, {}, true},
};

// Everything from logits to slots, a capacity, and back to the logits.
template <class X>
Results top_k_pipeline(Side<X>& s, const RuleCase& c, int64_t capacity, DropPolicy policy) {
  using W = device::wide_t<X>;
  RouterState<X> state(s, c.rule.kind == ScoreRule::kSoftmax);
  auto& v = state.v;
  auto& r = state.r;
  View<const W, 1> bias;
  if (c.bias) bias = s.template put<W, 1>(numbers<float>(kExperts, 8, 0.1), {kExperts});
  s.table.score(s.queue, c.rule, state.segment, v);
  s.table.choose_top_k(s.queue, v.scores, bias, c.limit, state.segment, r.choice);
  s.table.top_k_gates(s.queue, c.rule, r.choice, v);
  s.table.top_k_slots(s.queue, r.choice, v.gates, r);
  Results out = {s.get(r.choice), s.get(v.scores), s.get(v.probs), s.get(v.gates), s.get(v.lse)};
  state.results(s, out);
  const auto order = s.template poison<int32_t, 1>({kSlots});
  if (capacity > 0) {
    s.table.limit_capacity(s.queue, capacity, policy, order, r);
    state.results(s, out);
  }
  RoutingGrad<X> grad;
  grad.slot_gate = s.template put<W, 1>(numbers<float>(kSlots, 9), {kSlots});
  grad.probs = s.template put<W, 2>(numbers<float>(kTokens * kExperts, 10, 0.01), {kTokens, kExperts});
  grad.z_scale = 1e-3;
  const auto dlogits = s.template poison<W, 2>({kTokens, kExperts});
  s.table.score_backward(s.queue, c.rule, r, v, grad, dlogits);
  out.push_back(s.get(dlogits));
  return out;
}

// One launch has the bits of three.
template <class Sides>
void expect_routes_have_the_bits_of_their_steps(Sides& sides) {
  for (const RuleCase& c : kRules) {
    const auto steps = [&]<class X>(Side<X>& s, bool together) {
      using W = device::wide_t<X>;
      RouterState<X> state(s, c.rule.kind == ScoreRule::kSoftmax);
      View<const W, 1> bias;
      if (c.bias) bias = s.template put<W, 1>(numbers<float>(kExperts, 8, 0.1), {kExperts});
      auto& v = state.v;
      if (together) {
        EXPECT_TRUE(s.table.route_top_k(s.queue, c.rule, bias, {}, state.segment, v, state.r.choice));
      } else {
        s.table.score(s.queue, c.rule, state.segment, v);
        s.table.choose_top_k(s.queue, v.scores, bias, {}, state.segment, state.r.choice);
        s.table.top_k_gates(s.queue, c.rule, state.r.choice, v);
      }
      return Results{s.get(state.r.choice), s.get(v.scores), s.get(v.probs), s.get(v.gates), s.get(v.lse)};
    };
    SCOPED_TRACE(c.name);
    expect_same(sides.on_gpu([&](auto& s) { return steps(s, true); }),
                sides.on_gpu([&](auto& s) { return steps(s, false); }));
  }
}

template <class Sides>
void expect_top_k_routers_match(Sides& sides, std::initializer_list<int64_t> capacities) {
  for (const RuleCase& c : kRules) {
    for (const int64_t capacity : capacities) {
      for (const auto policy : {DropPolicy::kLowestProbability, DropPolicy::kPosition}) {
        const auto body = [&](auto& side) { return top_k_pipeline(side, c, capacity, policy); };
        const Results gpu = sides.on_gpu(body), cpu = sides.on_cpu(body);
        ASSERT_EQ(gpu.size(), cpu.size());
        for (size_t i = 0; i < gpu.size(); ++i) {
          // The lists of integers: choice, offsets, tally and slots.
          const bool exact = i == 0 || (i >= 5 && i + 1 < gpu.size() && (i - 5) % 4 < 3);
          expect_close(gpu[i], cpu[i], exact ? 0 : kFloatBound,
                       fmt::format("{}, capacity {}, result {}", c.name, capacity, i));
        }
        expect_same(sides.on_gpu(body), gpu);
      }
    }
  }
}

// One block makes the lists of few tokens, several kernels those of many. Padding counts as tokens here, as it does in a
// recorded pass of generation: slots behind the last one are then empty.
template <class Sides>
void expect_slots_match(Sides& sides, std::initializer_list<int64_t> counts) {
  for (const int64_t tokens : counts) {
    const auto body = [&]<class X>(Side<X>& s) {
      using W = device::wide_t<X>;
      std::vector<double> chosen;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < kTopK; ++j)
          chosen.push_back(t % 13 == 12 ? -1 : double((t * t + 5 * j) % kExperts));
        std::sort(chosen.end() - kTopK, chosen.end());
      }
      const int64_t most = tokens * kTopK, there = most - std::count(chosen.begin(), chosen.end(), -1.0);
      const bool gpu = s.queue.kind() != device::DeviceKind::kCpu;
      Routing<X> r;
      r.num_tokens = tokens;
      r.num_experts = kExperts;
      r.num_slots = gpu ? most : there;
      r.expert_offsets = s.template poison<int64_t, 1>({kExperts + 1});
      r.tally = s.template poison<int64_t, 1>({kExperts + 1});
      r.slot_token = s.template poison<int32_t, 1>({most});
      r.slot_gate = s.template poison<W, 1>({most});
      const auto choice = s.template put<int32_t, 2>(chosen, {tokens, kTopK});
      const auto gates =
          s.template put<W, 2>(numbers<float>(size_t(tokens * kExperts), 5), {tokens, kExperts});
      const auto offsets = s.template poison<int32_t, 1>({tokens + 1});
      const auto slots = s.template poison<int32_t, 1>({most});
      r.row_offsets = offsets;
      r.row_slots = slots;
      const bool by_row = s.table.top_k_slots_by_row && s.table.top_k_slots_by_row(s.queue, choice, gates, r);
      EXPECT_EQ(by_row, gpu && tokens <= MoeKernels<X>::kFewTokens);
      if (!by_row) {
        s.table.top_k_slots(s.queue, choice, gates, r);
        s.table.slots_by_row(s.queue, r.slot_token.rows(0, r.num_slots), offsets, slots);
      }
      for (const double token : s.get(r.slot_token.rows(there, r.num_slots - there))) EXPECT_EQ(token, -1);
      for (const double gate : s.get(r.slot_gate.rows(there, r.num_slots - there))) EXPECT_EQ(gate, 0);
      return Results{s.get(r.expert_offsets),           s.get(r.tally), s.get(r.slot_token.rows(0, there)),
                     s.get(r.slot_gate.rows(0, there)), s.get(offsets), s.get(slots.rows(0, there))};
    };
    const Results gpu = sides.on_gpu(body), cpu = sides.on_cpu(body);
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], 0, fmt::format("{} tokens, result {}", tokens, i));
  }
}

// Rows of 16-byte units and others, slots that do not exist, rows without slots.
template <class T, class Sides>
void expect_rows_match(Sides& sides) {
  for (const int64_t width : {int64_t(136), int64_t(13)}) {
    const auto body = [&]<class X>(Side<X>& s) {
      using W = device::wide_t<X>;
      constexpr int64_t kCount = 700, kRows = 90;
      std::vector<double> row(kCount);
      for (int64_t a = 0; a < kCount; ++a) row[size_t(a)] = a % 11 == 0 ? -1 : double(a * a % (kRows - 3));
      const auto slot_row = s.template put<int32_t, 1>(row, {kCount});
      const auto offsets = s.template poison<int32_t, 1>({kRows + 1});
      const auto slots = s.template put<int32_t, 1>(std::vector<double>(kCount, 0), {kCount});
      const auto x = s.template put<X, 2>(numbers<T>(size_t(kRows * width), 1), {kRows, width});
      const auto out = s.template put<X, 2>(std::vector<double>(size_t(kCount * width), 1), {kCount, width});
      const auto weight = s.template put<W, 1>(numbers<float>(kCount, 2), {kCount});
      const auto sums = s.template poison<X, 2>({kRows, width});
      const auto added = s.template put<X, 2>(numbers<T>(size_t(kRows * width), 3), {kRows, width});
      s.table.slots_by_row(s.queue, slot_row, offsets, slots);
      s.table.gather_rows(s.queue, x, slot_row, out);
      s.table.combine_rows(s.queue, out, offsets, slots, weight, false, sums);
      s.table.combine_rows(s.queue, out, offsets, slots, {}, true, added);
      const Results results = {s.get(offsets), s.get(slots), s.get(out), s.get(sums), s.get(added)};
      if (s.table.combine_rows_onto != nullptr) {
        const auto plus = s.template put<X, 2>(numbers<T>(size_t(kRows * width), 4), {kRows, width});
        s.table.combine_rows_onto(s.queue, out, offsets, slots, weight, false, plus, sums);
        std::vector<double> expected = s.get(plus);
        for (size_t i = 0; i < expected.size(); ++i)
          expected[i] = double(float(X(float(results[3][i]) + float(expected[i]))));
        expect_same({s.get(sums)}, {expected});
      }
      return results;
    };
    const Results gpu = sides.on_gpu(body), cpu = sides.on_cpu(body);
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], i < 3 ? 0 : product_bound<T>(16), fmt::format("result {}", i));
    expect_same(sides.on_gpu(body), gpu);
  }
}

}  // namespace cadre::moe
