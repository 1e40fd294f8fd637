// The layer over layouts: ranks, expert degrees, micro-batches, threads and ranks without tokens.
#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <utility>

#include "tests/moe/layer_cases.h"

namespace cadre::moe {
namespace {

struct BatchResult {
  std::map<int64_t, std::vector<double>> y, dx;      // by first token
  std::map<std::string, std::vector<double>> grads;  // global, summed as the trainer does
  std::vector<double> expert_tokens;
  double aux = 0, z = 0, dropped = 0;
};

// A batch of 64 tokens over `ranks` ranks, `micros` micro-batches each. The first `padding_until` tokens are
// padding.
BatchResult run_batch(const std::string& text, int ranks, int ep, int micros, int threads = 1,
                      int padding_until = 0, bool remake = false) {
  BatchResult result;
  std::vector<int32_t> segment;
  for (int i = 0; i < 4; ++i)
    for (const int32_t s : some_padding()) segment.push_back(s);
  std::fill(segment.begin(), segment.begin() + padding_until, -1);
  const BatchCounts counts = counts_of(segment, 4);
  const auto x = normals<double>(64 * 6, 1), dy = normals<double>(64 * 6, 2);
  std::mutex mutex;
  comm::run_threads(ranks, [&](comm::World& world) {
    LayerRig<double> rig(world, ep, text, {.max_tokens = 64, .threads = threads});
    const int64_t length = 64 / (ranks * micros);
    for (int m = 0; m < micros; ++m) {
      const int64_t begin = (world.rank() * micros + m) * length;
      auto part = [&](const std::vector<double>& all) {
        return std::vector<double>(all.begin() + begin * 6, all.begin() + (begin + length) * 6);
      };
      const std::vector<int32_t> cut(segment.begin() + begin, segment.begin() + begin + length);
      const auto mine = part(x);
      const auto y = rig.forward(mine, cut);
      if (remake) rig.layer.remake(view(mine, {length, 6}));
      const auto dx = rig.backward(mine, cut, part(dy), counts);
      std::lock_guard lock(mutex);
      result.y[begin] = y;
      result.dx[begin] = dx;
    }
    // In rank order, so that repeated runs add in the same order.
    for (int r = 0; r < ranks; ++r) {
      rig.mesh.data().barrier("test");
      if (r != world.rank()) continue;
      const MoeStats stats = rig.layer.stats();
      result.aux += stats.aux_loss, result.z += stats.z_loss, result.dropped += stats.dropped;
      result.expert_tokens.resize(stats.expert_tokens.size());
      for (size_t e = 0; e < stats.expert_tokens.size(); ++e)
        result.expert_tokens[e] += stats.expert_tokens[e];
      for (size_t row = 0; row < rig.params.table.rows().size(); ++row) {
        const auto& place = rig.params.layout->at(int(row));
        auto& global = result.grads[rig.params.table.row(int(row)).name];
        global.resize(rig.params.table.row(int(row)).numel());
        const device::ElementOrder order = rig.params.layout->order(int(row));
        for (int64_t i = 0; i < place.count; ++i)
          global[size_t(order.plain(place.global_begin + i))] +=
              rig.params.store->grads(place.group)[place.offset + i];
      }
    }
  });
  return result;
}

std::vector<double> joined(const std::map<int64_t, std::vector<double>>& pieces) {
  std::vector<double> all;
  for (const auto& [begin, piece] : pieces) all.insert(all.end(), piece.begin(), piece.end());
  return all;
}

void expect_same(const BatchResult& a, const BatchResult& b, const std::string& what) {
  constexpr double kTolerance = 1e-12;
  expect_near(joined(a.y), joined(b.y), kTolerance, what + " y");
  expect_near(joined(a.dx), joined(b.dx), kTolerance, what + " dx");
  for (const auto& [name, grad] : b.grads) expect_near(a.grads.at(name), grad, kTolerance, what + " " + name);
  EXPECT_EQ(a.expert_tokens, b.expert_tokens) << what;
  EXPECT_EQ(a.dropped, b.dropped) << what;
  EXPECT_NEAR(a.aux, b.aux, kTolerance) << what;
  EXPECT_NEAR(a.z, b.z, kTolerance) << what;
}

class EveryLayout : public testing::TestWithParam<LayerCase> {};
INSTANTIATE_TEST_SUITE_P(Layouts, EveryLayout, testing::ValuesIn(kLayerCases), layer_case_name);

TEST_P(EveryLayout, IsTheSameForEveryExpertDegree) {
  const BatchResult one = run_batch(GetParam().text, 4, 1, 1);
  for (const int ep : {2, 4})
    expect_same(run_batch(GetParam().text, 4, ep, 1), one, "ep " + std::to_string(ep));
}

// With another dispatch: the same sums in the same order. Routers with hints are refused by peer, copy and gather.
void expect_bits_of_the_exchange(const std::string& text, const std::string& dispatch) {
  if (text.find("autonomy") != std::string::npos) GTEST_SKIP() << "has hints";
  const std::string peer = "{dispatch: " + dispatch + ", " + text.substr(1);
  for (const int ep : {2, 4}) {
    const BatchResult a = run_batch(text, 4, ep, 2), b = run_batch(peer, 4, ep, 2, 1, 0, ep == 2);
    EXPECT_EQ(a.y, b.y) << ep;
    EXPECT_EQ(a.dx, b.dx) << ep;
    EXPECT_EQ(a.grads, b.grads) << ep;
    EXPECT_EQ(a.dropped, b.dropped) << ep;
  }
  const BatchResult a = run_batch(text, 4, 4, 1, 1, 32), b = run_batch(peer, 4, 4, 1, 1, 32);
  EXPECT_EQ(a.y, b.y) << "ranks without tokens";
  EXPECT_EQ(a.grads, b.grads) << "ranks without tokens";
}
TEST_P(EveryLayout, PeerDispatchGivesTheBitsOfTheExchange) {
  expect_bits_of_the_exchange(GetParam().text, "peer");
}
TEST_P(EveryLayout, CopyDispatchGivesTheBitsOfTheExchange) {
  expect_bits_of_the_exchange(GetParam().text, "copy");
}

// Ranks that share out the width of every expert: the same sums in another order.
TEST_P(EveryLayout, IsTheSameWhereRanksShareTheWidthOfExperts) {
  std::string text = GetParam().text;
  if (text.find("autonomy") != std::string::npos) GTEST_SKIP() << "has hints";
  text.replace(text.find("width: 5"), 8, "width: 8");
  const std::string widths = "{shares: width, " + text.substr(1);
  const BatchResult one = run_batch(text, 4, 1, 1), padded = run_batch(text, 4, 1, 1, 1, 32);
  for (const int ep : {2, 4}) {
    expect_same(run_batch(widths, 4, ep, 1), one, "ep " + std::to_string(ep));
    expect_same(run_batch(widths, 4, ep, 1, 1, 32), padded, "ranks without tokens, ep " + std::to_string(ep));
    const BatchResult a = run_batch(widths, 4, ep, 2), b = run_batch(widths, 4, ep, 2, 2, 0, true);
    EXPECT_EQ(a.y, b.y) << "threads and remake, ep " << ep;
    EXPECT_EQ(a.grads, b.grads) << "threads and remake, ep " << ep;
    const BatchResult copied = run_batch("{dispatch: copy, " + widths.substr(1), 4, ep, 2);
    EXPECT_EQ(copied.y, a.y) << "copies, ep " << ep;
    EXPECT_EQ(copied.grads, a.grads) << "copies, ep " << ep;
  }
}

TEST_P(EveryLayout, IsTheSameForEveryRankCountAndMicroBatchUnlessItSaysOtherwise) {
  bool any_split = true;
  comm::run_threads(1, [&](comm::World& world) {
    any_split = !LayerRig<double>(world, 1, GetParam().text).layer.split_dependent();
  });
  if (!any_split) GTEST_SKIP() << "split_dependent";
  const BatchResult whole = run_batch(GetParam().text, 1, 1, 1);
  expect_same(run_batch(GetParam().text, 1, 1, 4), whole, "4 micro-batches");
  expect_same(run_batch(GetParam().text, 2, 2, 2), whole, "2 ranks, ep 2, 2 micro-batches");
  expect_same(run_batch(GetParam().text, 4, 2, 4), whole, "4 ranks, ep 2, 4 micro-batches");
}

TEST_P(EveryLayout, GivesTheSameBitsWhenRepeated) {
  const BatchResult a = run_batch(GetParam().text, 2, 2, 2, 2), b = run_batch(GetParam().text, 2, 2, 2, 2);
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(a.dx, b.dx);
  EXPECT_EQ(a.grads, b.grads);
}

TEST_P(EveryLayout, TakesRanksWithoutTokens) {
  // 32 tokens of padding: ranks 0 and 1 of 4 have none.
  const BatchResult one = run_batch(GetParam().text, 4, 1, 1, 1, 32);
  for (const int ep : {2, 4})
    expect_same(run_batch(GetParam().text, 4, ep, 1, 1, 32), one, "ep " + std::to_string(ep));
  const BatchResult none = run_batch(GetParam().text, 2, 2, 1, 1, 64);
  for (const double tokens : none.expert_tokens) EXPECT_EQ(tokens, 0);
  EXPECT_EQ(none.aux, 0);
  EXPECT_EQ(none.z, 0);
  for (const auto& [name, grad] : none.grads) {
    for (const double g : grad) ASSERT_TRUE(std::isfinite(g));
    if (name.find("shared") != std::string::npos) continue;  // shared experts do not look at segments
    EXPECT_EQ(std::count(grad.begin(), grad.end(), 0.0), int64_t(grad.size())) << name;
  }
}

TEST_P(EveryLayout, MoreThreadsChangeOnlyRounding) {
  expect_same(run_batch(GetParam().text, 1, 1, 1, 3), run_batch(GetParam().text, 1, 1, 1, 1), "3 threads");
}

TEST(MoeStats, CountsDroppedSlotsAndChoicesBeforeThem) {
  const BatchResult result =
      run_batch("{num_experts: 4, top_k: 2, width: 5, capacity_factor: 0.5, balance: none}", 1, 1, 1);
  double chosen = 0;
  for (const double tokens : result.expert_tokens) chosen += tokens;
  EXPECT_EQ(chosen, 2 * 52);  // 64 tokens, 12 of them padding
  // C = ceil(2 * 52 / 4 * 0.5) = 13: every expert keeps at most 13.
  double over = 0;
  for (const double tokens : result.expert_tokens) over += std::max(0.0, tokens - 13);
  EXPECT_EQ(result.dropped, over);
  EXPECT_GT(over, 0);
}

// What a rank does at its first gradient of an expert's matrix.
class AtFirstWeights : public device::Tap<double> {
 public:
  template <class U, int N>
  using View = device::View<U, N>;
  AtFirstWeights(const device::ParamTable& table, std::function<void()> act)
      : table_(table), act_(std::move(act)) {}
  void on_linear(int param, View<const double, 2>, View<const double, 2>, const int32_t*,
                 View<const int64_t, 1>) override {
    if (table_.row(param).group == device::Group::kExpert && act_) std::exchange(act_, nullptr)();
  }

 private:
  const device::ParamTable& table_;
  std::function<void()> act_;
};

// Those that send: ranks that read each other's memory do it on a queue beside, which on the CPU is the same thread.
class EverySending : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EverySending, testing::Values("exchange", "gather"),
                         [](const auto& info) { return std::string(info.param); });

// Rank 0 stops twice on its way back, and rank 1 comes as far as it can without what rank 0 has not done: to its experts
// while rank 0 is in beside(), and to the end while rank 0 has no gradient of an expert yet. So both of the backward pass's
// journeys begin before the work that is to hide them.
TEST_P(EverySending, RowsTravelBackBesideWorkThatNobodyWaitsFor) {
  const std::string text = fmt::format(
      "{{dispatch: {}, num_experts: 4, top_k: 2, width: 5, num_shared: 1, balance: none}}", GetParam());
  std::promise<void> has_rows, has_returned;
  const auto wait_for = [](std::promise<void>& other) {
    EXPECT_EQ(other.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  };
  comm::run_threads(2, [&](comm::World& world) {
    LayerRig<double> rig(world, 2, text);
    const bool waits = world.rank() == 0;
    const auto x = normals<double>(16 * 6, 1 + world.rank());
    rig.forward(x, some_padding());
    AtFirstWeights tap(rig.params.table, [&] { waits ? wait_for(has_returned) : has_rows.set_value(); });
    rig.backward(x, some_padding(), normals<double>(16 * 6, 9), counts_of(some_padding(), 4), &tap, [&] {
      if (waits) wait_for(has_rows);
    });
    if (!waits) has_returned.set_value();
  });
}

}  // namespace
}  // namespace cadre::moe
