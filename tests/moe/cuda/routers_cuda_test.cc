// The router's, balance losses' and rows' entries of CUDA's table against the CPU's in double.
#include "tests/moe/cuda/rank_slot_cases.h"
#include "tests/moe/cuda/router_cases.h"

namespace cadre::moe {
namespace {

using device::View;

template <class T>
class RouterEntries : public BothSides<T> {};
TYPED_TEST_SUITE(RouterEntries, Storages);

TYPED_TEST(RouterEntries, TopKRoutersChooseAndDifferentiateAsOnTheCpu) {
  expect_top_k_routers_match(*this, {0, 1, 30});
}

TYPED_TEST(RouterEntries, ExpertsChooseTheSameTokens) {
  for (const int64_t capacity : {int64_t(1), int64_t(40), kTokens}) {
    const auto body = [&]<class X>(Side<X>& s) {
      RouterState<X> state(s, true);
      const auto order = s.template poison<int32_t, 2>({kExperts, kTokens});
      state.r.num_slots = kExperts * std::min(capacity, state.r.num_real);
      state.r.slot_token = s.template poison<int32_t, 1>({state.r.num_slots});
      state.r.slot_gate = s.template poison<device::wide_t<X>, 1>({state.r.num_slots});
      s.table.score(s.queue, {ScoreRule::kSoftmax, false, 1}, state.segment, state.v);
      s.table.expert_choice_slots(s.queue, capacity, state.segment, order, state.v, state.r);
      Results out;
      state.results(s, out);
      out.push_back(s.get(state.v.gates));
      return out;
    };
    const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], i < 3 ? 0 : kFloatBound,
                   fmt::format("capacity {}, result {}", capacity, i));
  }
}

TYPED_TEST(RouterEntries, RouterMatrixMultipliesForwardsAndBackwards) {
  for (const int64_t tokens : {int64_t(1), kTokens, int64_t(2500)}) {  // a few are made in another way
    const auto body = [&]<class X>(Side<X>& s) {
      using W = device::wide_t<X>;
      const auto x = s.template put<X, 2>(numbers<TypeParam>(size_t(tokens * kDim), 1), {tokens, kDim});
      const auto w = s.template put<X, 2>(numbers<TypeParam>(kExperts * kDim, 2), {kExperts, kDim});
      const auto z = s.template poison<W, 2>({tokens, kExperts});
      const auto dz = s.template put<W, 2>(numbers<float>(size_t(tokens * kExperts), 3), {tokens, kExperts});
      const auto dx = s.template put<X, 2>(numbers<TypeParam>(size_t(tokens * kDim), 4), {tokens, kDim});
      const auto dw = s.template put<X, 2>(numbers<TypeParam>(kExperts * kDim, 5), {kExperts, kDim});
      s.table.router_linear(s.queue, x, w, z);
      s.table.router_linear_backward(s.queue, dz, x, w, dx, dw);
      return Results{s.get(z), s.get(dx), s.get(dw)};
    };
    const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
    expect_close(gpu[0], cpu[0], product_bound<float>(kDim), "logits");
    expect_close(gpu[1], cpu[1], product_bound<TypeParam>(kExperts), "dx");
    expect_close(gpu[2], cpu[2], product_bound<TypeParam>(tokens), "dw");
    expect_same(this->on_gpu(body), gpu);
  }
}

TYPED_TEST(RouterEntries, RoutesHaveTheBitsOfTheirSteps) {
  expect_routes_have_the_bits_of_their_steps(*this);
}
TYPED_TEST(RouterEntries, SlotsOfFewAndOfManyTokens) {
  expect_slots_match(*this, {1, 31, 64, 1024, 1025, 3000});
}

TYPED_TEST(RouterEntries, HintsAreNormedGatheredAndDifferentiated) {
  constexpr int64_t kRank = 20;
  const auto body = [&]<class X>(Side<X>& s) {
    using W = device::wide_t<X>;
    RouterState<X> state(s, true);
    s.table.score(s.queue, {}, state.segment, state.v);
    s.table.choose_top_k(s.queue, state.v.scores, {}, {}, state.segment, state.r.choice);
    s.table.top_k_gates(s.queue, {}, state.r.choice, state.v);
    s.table.top_k_slots(s.queue, state.r.choice, state.v.gates, state.r);
    auto values = numbers<TypeParam>(kTokens * kExperts * kRank, 6);
    std::fill_n(values.begin(), kRank, 0.0);  // a block with norm 0
    const auto h = s.template put<X, 3>(values, {kTokens, kExperts, kRank});
    const auto norms = s.template poison<W, 2>({kTokens, kExperts});
    const auto hints = s.template put<X, 2>(std::vector<double>(kSlots * kRank, 0), {kSlots, kRank});
    const auto dnorms = s.template put<W, 2>(numbers<float>(kTokens * kExperts, 7), {kTokens, kExperts});
    const auto dhints = s.template put<X, 2>(numbers<TypeParam>(kSlots * kRank, 8), {kSlots, kRank});
    s.table.block_norms(s.queue, h, state.segment, norms);
    s.table.gather_hints(s.queue, h, state.r, hints);
    s.table.block_norms_backward(s.queue, dnorms, norms, state.r, dhints, h);
    return Results{s.get(norms), s.get(hints), s.get(h)};
  };
  const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
  expect_close(gpu[0], cpu[0], kFloatBound, "norms");
  expect_close(gpu[1], cpu[1], 0, "hints");
  expect_close(gpu[2], cpu[2], 2 * product_bound<TypeParam>(1), "dh");
}

TYPED_TEST(RouterEntries, BalanceSumsAndGradients) {
  for (const int64_t seq_len : {int64_t(7), int64_t(70), kTokens, int64_t(1000)}) {
    const int64_t sequences = (kTokens + seq_len - 1) / seq_len;
    const auto body = [&]<class X>(Side<X>& s) {
      using W = device::wide_t<X>;
      const auto segment = s.template put<int32_t, 1>(segments(), {kTokens});
      const auto probs = s.template put<W, 2>(numbers<float>(kTokens * kExperts, 5), {kTokens, kExperts});
      std::vector<double> chosen(kTokens * kTopK);
      for (size_t i = 0; i < chosen.size(); ++i)
        chosen[i] = double((i / kTopK * 3 + i % kTopK * 4) % kExperts);
      const auto choice = s.template put<int32_t, 2>(chosen, {kTokens, kTopK});
      const auto sums = s.template poison<double, 2>({sequences, kExperts});
      const auto rates = s.template poison<double, 2>({sequences, kExperts});
      const auto dprobs = s.template poison<W, 2>({kTokens, kExperts});
      const auto load = s.template put<double, 1>(numbers<float>(kExperts, 4), {kExperts});
      const auto load_rates = s.template poison<double, 1>({kExperts});
      const auto total = s.template put<double, 1>({0.5}, {1});
      const auto counts = s.template put<int64_t, 1>(std::vector<double>(kExperts, 1e6), {kExperts});
      s.table.sequence_sums(s.queue, probs, seq_len, sums);
      s.table.sequence_rates(s.queue, choice, segment, seq_len, 0.7, 3, rates);
      s.table.sequence_grads(s.queue, rates, segment, seq_len, dprobs);
      s.table.add_dot(s.queue, sums, rates, total);
      s.table.add_squares(s.queue, probs.template reshape<1>({probs.size()}), 0.25, total);
      s.table.add_counts(s.queue, counts, load);
      s.table.load_rates(s.queue, load, 0.3, load_rates);
      return Results{s.get(sums), s.get(rates), s.get(dprobs), s.get(load_rates), s.get(load), s.get(total)};
    };
    const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
    const double bounds[] = {1e-13, 1e-13, 0x1p-23, 1e-13, 1e-15, 1e-13};
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], bounds[i], fmt::format("sequences of {}, result {}", seq_len, i));
  }
}

TYPED_TEST(RouterEntries, SlotsOfSeveralRanks) {
  expect_rank_slots_match<TypeParam>(*this);
}
TYPED_TEST(RouterEntries, RowsAreGatheredAndSummed) {
  expect_rows_match<TypeParam>(*this);
}

}  // namespace
}  // namespace cadre::moe
