// The kernels of a layer in a pass of generation, one after the other without a wait of the host.
#include "parallel/device/recording.h"
#include "tests/moe/cuda/side.h"

namespace cadre::moe {
namespace {

template <class T>
class PassOfGeneration : public BothSides<T> {};
TYPED_TEST_SUITE(PassOfGeneration, Storages);

constexpr int64_t kExperts = 24, kTopK = 5, kDim = 136;

// One layer's kernels of a pass of generation, of which most come before the one that they read from is done: in rounds over
// the same memory one that did not wait would find the last round's values.
TYPED_TEST(PassOfGeneration, KernelsOfAPassWaitForTheOneBefore) {
  using T = TypeParam;
  constexpr int64_t kRows = 64, kWidth = 136, kMost = kRows * kTopK, kRounds = 4;
  enum class Way { kWaits, kQueued, kRecorded };
  const auto rounds = [&](Way way, Side<T>& s) {
    using W = typename Side<T>::W;
    const auto values = [&](int64_t n, uint64_t key) { return numbers<T>(size_t(n), key, 0.1); };
    const auto x = s.template poison<T, 2>({kRows, kDim});
    const auto w = s.template put<T, 2>(values(kExperts * kDim, 1), {kExperts, kDim});
    const auto gate_up = [&](uint64_t key) {
      return s.template put<T, 3>(values(kExperts * kWidth * kDim, key), {kExperts, kWidth, kDim});
    };
    const auto w_gate = gate_up(2), w_up = gate_up(3);
    const auto w_down = s.template put<T, 3>(values(kExperts * kWidth * kDim, 4), {kExperts, kDim, kWidth});
    const auto matrix = [&] { return s.template poison<W, 2>({kRows, kExperts}); };
    const auto logits = matrix(), probs = matrix(), gates = matrix();
    const ScoreViews<T> v{logits, probs, probs, gates, s.template poison<W, 1>({kRows})};
    std::vector<double> segment(kRows, 0);
    segment.back() = -1;
    const auto segment_view = s.template put<int32_t, 1>(segment, {kRows});
    Routing<T> r;
    r.num_tokens = kRows;
    r.num_experts = kExperts;
    r.num_slots = kMost;
    r.choice = s.template poison<int32_t, 2>({kRows, kTopK});
    r.expert_offsets = s.template poison<int64_t, 1>({kExperts + 1});
    r.tally = s.template poison<int64_t, 1>({kExperts + 1});
    r.slot_token = s.template poison<int32_t, 1>({kMost});
    r.slot_gate = s.template poison<W, 1>({kMost});
    const auto offsets = s.template poison<int32_t, 1>({kRows + 1});
    const auto slots = s.template poison<int32_t, 1>({kMost});
    const auto rows = s.template poison<T, 2>({kMost, kDim}), out = s.template poison<T, 2>({kMost, kDim});
    const auto hidden = [&] { return s.template poison<T, 2>({kMost, kWidth}); };
    const auto gate = hidden(), up = hidden(), act = hidden();
    const auto y = s.template poison<T, 2>({kRows, kDim});
    const auto then = [&] {
      if (way == Way::kWaits) s.queue.wait();
    };
    const auto pass = [&] {
      if (s.table.expect_swiglu != nullptr) s.table.expect_swiglu(s.queue, kMost, w_gate, w_up);
      then();
      s.table.router_linear(s.queue, x, w, logits);
      then();
      s.table.score(s.queue, {}, segment_view, v);
      then();
      s.table.choose_top_k(s.queue, v.scores, {}, {}, segment_view, r.choice);
      then();
      s.table.top_k_gates(s.queue, {}, r.choice, v);
      then();
      s.table.top_k_slots(s.queue, r.choice, gates, r);
      then();
      s.table.slots_by_row(s.queue, r.slot_token, offsets, slots);
      then();
      s.table.gather_rows(s.queue, x, r.slot_token, rows);
      then();
      s.table.grouped_swiglu(s.queue, rows, w_gate, w_up, r.expert_offsets, gate, up, act);
      then();
      s.table.grouped_gemm(s.queue, act, w_down, r.expert_offsets, out);
      then();
      s.table.combine_rows(s.queue, out, offsets, slots, r.slot_gate, false, y);
    };
    const auto recording = device::make_recording(s.queue);
    Results results;
    for (int64_t round = 0; round < kRounds; ++round) {
      const auto tokens = numbers<T>(kRows * kDim, uint64_t(10 + round));
      std::vector<T> host(tokens.size());
      std::transform(tokens.begin(), tokens.end(), host.begin(),
                     [](double value) { return T(float(value)); });
      s.queue.upload(host.data(), x.data(), host.size() * sizeof(T));
      way == Way::kRecorded ? recording->run(pass) : pass();
      results.push_back(s.get(y));
      results.push_back(s.get(r.slot_token));
    }
    return results;
  };
  const auto of = [&](Way way) { return this->on_gpu([&](Side<T>& s) { return rounds(way, s); }); };
  const Results expected = of(Way::kWaits);
  EXPECT_NE(expected[0], expected[2]);
  expect_same(of(Way::kQueued), expected);
  expect_same(of(Way::kRecorded), expected);
}

}  // namespace
}  // namespace cadre::moe
