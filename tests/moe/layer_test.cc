// The whole layer: against loops over tokens, against central differences, over every layout of ranks, and at
// the edges.
#include <algorithm>
#include <map>
#include <mutex>

#include "parallel/base/errors.h"
#include "tests/moe/rig.h"

namespace cadre::moe {
namespace {

struct Case {
  const char* name;
  const char* text;
};
const Case kCases[] = {
    {"softmax",
     "{num_experts: 4, top_k: 2, width: 5, z_loss: 0.2, balance: {name: global_batch, coef: 0.3}}"},
    {"olmoe_shared",
     "{num_experts: 4, top_k: 2, width: 5, num_shared: 2, z_loss: 0.2, router: {name: softmax_topk, "
     "normalize: false}, "
     "balance: {name: sequence, coef: 0.3}}"},
    {"sigmoid_groups",
     "{num_experts: 8, top_k: 3, width: 5, num_shared: 1, router: {name: sigmoid_bias, route_scale: 2.5, "
     "groups: 4, "
     "groups_kept: 2}, balance: {name: previous_batch, coef: 0.3}}"},
    {"autonomy",
     "{num_experts: 4, top_k: 2, width: 5, router: {name: autonomy, rank: 3}, balance: {name: sequence, "
     "coef: 0.3}}"},
    {"autonomy_shared",
     "{num_experts: 4, top_k: 1, width: 5, num_shared: 1, router: {name: autonomy, rank: 2}, balance: none}"},
    {"expert_choice",
     "{num_experts: 4, top_k: 2, width: 5, z_loss: 0.2, router: expert_choice, balance: none}"},
    {"capacity",
     "{num_experts: 4, top_k: 2, width: 5, num_shared: 1, capacity_factor: 0.75, balance: {name: "
     "micro_batch, coef: 0.3}}"},
    {"capacity_position",
     "{num_experts: 4, top_k: 2, width: 5, capacity_factor: 0.5, drop: position, balance: {name: sequence, "
     "coef: 0.3}}"},
    {"all_experts", "{num_experts: 4, top_k: 4, width: 5, balance: none}"},
};

class EveryLayer : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Layers, EveryLayer, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

// Four sequences of four tokens; sequence 1 ends in padding, and so does the last token.
std::vector<int32_t> some_padding() {
  std::vector<int32_t> segment(16, 0);
  segment[6] = segment[7] = segment[15] = -1;
  return segment;
}

TEST_P(EveryLayer, GradientMatchesCentralDifferences) {
  comm::run_threads(1, [&](comm::World& world) {
    LayerRig<double> rig(world, 1, GetParam().text);
    const auto segment = some_padding();
    const BatchCounts counts = counts_of(segment, 4);
    auto x = normals<double>(16 * 6, 1);
    const auto dy = normals<double>(16 * 6, 2);
    auto loss = [&] {
      rig.layer.begin_step();
      const auto y = rig.forward(x, segment);
      rig.backward(x, segment, dy, counts);  // for the losses of the router
      double sum = rig.layer.stats().aux_loss + rig.layer.stats().z_loss;
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    rig.params.store->zero_grads();
    rig.forward(x, segment);
    const auto dx = rig.backward(x, segment, dy, counts);
    std::vector<std::vector<double>> grads;
    for (device::Group group : {device::Group::kDense, device::Group::kExpert}) {
      const auto flat = rig.params.store->grads(group);
      grads.emplace_back(flat.begin(), flat.end());
    }
    expect_gradient(view(x, {16 * 6}), dx, loss, "x", 1e-6);
    for (int group : {0, 1})
      expect_gradient(rig.params.store->values(device::Group(group)), grads[group], loss,
                      "group " + std::to_string(group), 1e-6);
  });
}

double silu(double v) {
  return v / (1 + std::exp(-v));
}

// y of one token by loops: gates by softmax over the best two, each expert a SwiGLU.
TEST(MoeLayer, ForwardIsTheGatedSumOfItsExperts) {
  comm::run_threads(1, [&](comm::World& world) {
    LayerRig<double> rig(world, 1, "{num_experts: 4, top_k: 2, width: 5, num_shared: 1}");
    const auto x = normals<double>(16 * 6, 1);
    const auto y = rig.forward(x, some_padding());
    auto value = [&](const char* name, int64_t i) {
      const auto& place = rig.params.layout->at(rig.params.table.find(std::string("layers.0.moe.") + name));
      return rig.params.store->values(place.group)[place.offset + i];
    };
    auto expert = [&](const double* in, const std::string& kind, int64_t e, int d) {
      double out = 0;
      for (int h = 0; h < 5; ++h) {
        double gate = 0, up = 0;
        for (int i = 0; i < 6; ++i) {
          gate += value((kind + ".w_gate").c_str(), (e * 5 + h) * 6 + i) * in[i];
          up += value((kind + ".w_up").c_str(), (e * 5 + h) * 6 + i) * in[i];
        }
        out += value((kind + ".w_down").c_str(), (e * 6 + d) * 5 + h) * silu(gate) * up;
      }
      return out;
    };
    for (int t = 0; t < 16; ++t) {
      const double* in = &x[t * 6];
      std::vector<double> z(4);
      for (int e = 0; e < 4; ++e)
        for (int i = 0; i < 6; ++i) z[e] += value("router.weight", e * 6 + i) * in[i];
      const int first = int(std::max_element(z.begin(), z.end()) - z.begin());
      int second = first == 0 ? 1 : 0;
      for (int e = 0; e < 4; ++e)
        if (e != first && z[e] > z[second]) second = e;
      const double g = 1 / (1 + std::exp(z[second] - z[first]));
      const bool padding = some_padding()[t] < 0;  // only the shared experts see it
      for (int d = 0; d < 6; ++d) {
        double expected = expert(in, "shared", 0, d);
        if (!padding)
          expected += g * expert(in, "experts", first, d) + (1 - g) * expert(in, "experts", second, d);
        EXPECT_NEAR(y[t * 6 + d], expected, 1e-12) << t << " " << d;
      }
    }
  });
}

// ---- Layouts ----

struct BatchResult {
  std::map<int64_t, std::vector<double>> y, dx;      // by first token
  std::map<std::string, std::vector<double>> grads;  // global, summed as the trainer does
  std::vector<double> expert_tokens;
  double aux = 0, z = 0, dropped = 0;
};

// A batch of 64 tokens over `ranks` ranks, `micros` micro-batches each. The first `padding_until` tokens are
// padding.
BatchResult run_batch(const std::string& text, int ranks, int ep, int micros, int threads = 1,
                      int padding_until = 0) {
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
      const auto dx = rig.backward(mine, cut, part(dy), counts);
      std::lock_guard lock(mutex);
      result.y[begin] = y;
      result.dx[begin] = dx;
    }
    // In rank order, so that repeated runs add in the same order.
    for (int r = 0; r < ranks; ++r) {
      rig.mesh.data().barrier("test");
      if (r != world.rank()) continue;
      const MoeStats& stats = rig.layer.stats();
      result.aux += stats.aux_loss, result.z += stats.z_loss, result.dropped += stats.dropped;
      result.expert_tokens.resize(stats.expert_tokens.size());
      for (size_t e = 0; e < stats.expert_tokens.size(); ++e)
        result.expert_tokens[e] += stats.expert_tokens[e];
      for (size_t row = 0; row < rig.params.table.rows().size(); ++row) {
        const auto& place = rig.params.layout->at(int(row));
        auto& global = result.grads[rig.params.table.row(int(row)).name];
        global.resize(rig.params.table.row(int(row)).numel());
        for (int64_t i = 0; i < place.count; ++i)
          global[place.global_begin + i] += rig.params.store->grads(place.group)[place.offset + i];
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

void expect_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_NEAR(a[i], b[i], tolerance * (1 + std::abs(b[i]))) << what << " " << i;
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

TEST_P(EveryLayer, IsTheSameForEveryExpertDegree) {
  const BatchResult one = run_batch(GetParam().text, 4, 1, 1);
  for (const int ep : {2, 4})
    expect_same(run_batch(GetParam().text, 4, ep, 1), one, "ep " + std::to_string(ep));
}

TEST_P(EveryLayer, IsTheSameForEveryRankCountAndMicroBatchUnlessItSaysOtherwise) {
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

TEST_P(EveryLayer, GivesTheSameBitsWhenRepeated) {
  const BatchResult a = run_batch(GetParam().text, 2, 2, 2, 2), b = run_batch(GetParam().text, 2, 2, 2, 2);
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(a.dx, b.dx);
  EXPECT_EQ(a.grads, b.grads);
}

TEST_P(EveryLayer, TakesRanksWithoutTokens) {
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

TEST_P(EveryLayer, MoreThreadsChangeOnlyRounding) {
  expect_same(run_batch(GetParam().text, 1, 1, 1, 3), run_batch(GetParam().text, 1, 1, 1, 1), "3 threads");
}

TEST_P(EveryLayer, FloatAgreesWithDouble) {
  std::vector<float> narrow;
  std::vector<double> wide;
  comm::run_threads(1, [&](comm::World& world) {
    LayerRig<double> rig(world, 1, GetParam().text);
    const auto x = normals<double>(16 * 6, 1);
    wide = rig.forward(x, some_padding());
    const auto dx = rig.backward(x, some_padding(), normals<double>(16 * 6, 2), counts_of(some_padding(), 4));
    wide.insert(wide.end(), dx.begin(), dx.end());
  });
  comm::run_threads(1, [&](comm::World& world) {
    LayerRig<float> rig(world, 1, GetParam().text);
    const auto x = normals<float>(16 * 6, 1);
    narrow = rig.forward(x, some_padding());
    const auto dx = rig.backward(x, some_padding(), normals<float>(16 * 6, 2), counts_of(some_padding(), 4));
    narrow.insert(narrow.end(), dx.begin(), dx.end());
  });
  for (size_t i = 0; i < wide.size(); ++i)
    EXPECT_NEAR(narrow[i], wide[i], 2e-4 * (1 + std::abs(wide[i]))) << i;
}

// ---- Edges ----

TEST(MoeLayer, TakesExpertsWithoutTokensAndAllTokensAtOneExpert) {
  // With weights on one input only and that input positive, every token prefers expert 1, then 0; 2 and 3 get
  // none.
  for (const int ep : {1, 2, 4}) {
    std::vector<double> tokens;
    comm::run_threads(4, [&](comm::World& world) {
      LayerRig<double> rig(world, ep, "{num_experts: 4, top_k: 1, width: 5, balance: none}");
      auto router = rig.params.store->template value<2>(rig.params.table.find("layers.0.moe.router.weight"));
      for (double& w : router) w = 0;
      router[1][0] = 1;
      auto x = normals<double>(16 * 6, 1 + world.rank());
      for (int t = 0; t < 16; ++t) x[t * 6] = 1;
      const std::vector<int32_t> segment(16, 0);
      const auto y = rig.forward(x, segment);
      const auto dx = rig.backward(x, segment, y, counts_of(segment, 4));
      for (const double d : dx) EXPECT_TRUE(std::isfinite(d));
      if (world.rank() == 0) tokens = rig.layer.stats().expert_tokens;
      // Gradients stay where the tokens went.
      const auto dw = rig.params.store->grads(device::Group::kExpert);
      const bool holds_expert_1 = world.rank() % ep == (ep == 4 ? 1 : 0);
      EXPECT_EQ(std::any_of(dw.begin(), dw.end(), [](double g) { return g != 0; }), holds_expert_1) << ep;
    });
    EXPECT_EQ(tokens, (std::vector<double>{0, 16, 0, 0}));
  }
}

TEST(MoeLayer, RefusesExpertsThatDoNotDivideByTheExpertDegree) {
  try {
    comm::run_threads(4, [](comm::World& world) { LayerRig<float>(world, 4, "{num_experts: 6, width: 5}"); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("moe.num_experts = 6 does not divide by mesh.ep = 4"),
              std::string::npos)
        << error.what();
  }
}

TEST(MoeLayer, TakesAnEmptyMicroBatch) {
  comm::run_threads(2, [](comm::World& world) {
    LayerRig<float> rig(world, 2, "{num_experts: 4, width: 5, num_shared: 1}");
    const int64_t tokens = world.rank() == 0 ? 0 : 8;
    const std::vector<float> x = normals<float>(tokens * 6, 1);
    const std::vector<int32_t> segment(tokens, 0);
    const auto y = rig.forward(x, segment);
    rig.backward(x, segment, y, {8, 8, 2});
    EXPECT_EQ(y.size(), x.size());
  });
}

TEST(MoeLayer, EvaluationNeitherCountsNorTalksToDataRanks) {
  comm::run_threads(2, [](comm::World& world) {
    LayerRig<float> rig(world, 1, "{num_experts: 4, width: 5, balance: global_batch}");
    rig.mesh.data().set_timeout(std::chrono::seconds(1));
    if (world.rank() == 0) rig.forward(normals<float>(16 * 6, 1), some_padding(), false);  // alone
    rig.layer.begin_step();  // would wait for rank 1 if it had anything to wait for
    for (const double tokens : rig.layer.stats().expert_tokens) EXPECT_EQ(tokens, 0);
  });
}

TEST(MoeLayer, CountsDroppedSlotsAndChoicesBeforeThem) {
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

TEST(MoeLayer, SavesAndLoadsTheStateOfRouterAndBalance) {
  comm::run_threads(1, [](comm::World& world) {
    const char* text = "{num_experts: 4, width: 5, router: sigmoid_bias, balance: previous_batch}";
    LayerRig<float> rig(world, 1, text), loaded(world, 1, text);
    rig.layer.after_step({1, 2, 3, 10});
    StateDict state, again;
    rig.layer.save(state, "layers.0.moe");
    loaded.layer.load(state, "layers.0.moe");
    loaded.layer.save(again, "layers.0.moe");
    EXPECT_EQ(state.size(), 2u);
    EXPECT_EQ(state, again);
  });
}

// A tap that adds b^T a per row must find the weights' gradients, whatever the layout.
struct GradientTap final : device::Tap<double> {
  explicit GradientTap(const device::ParamTable& table) : table(table) {}
  void on_linear(int param, device::View<const double, 2> a, device::View<const double, 2> b,
                 const int32_t* token, device::View<const int64_t, 1> offsets) override {
    const int64_t in = a.dim(1), out = b.dim(1), experts = offsets.data() ? offsets.dim(0) - 1 : 1;
    auto& sum = grads[param];
    sum.resize(experts * in * out);
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t begin = offsets.data() ? offsets[e] : 0, end = offsets.data() ? offsets[e + 1] : a.dim(0);
      for (int64_t r = begin; r < end; ++r) {
        if (token) tokens.push_back(token[r]);
        for (int64_t o = 0; o < out; ++o)
          for (int64_t i = 0; i < in; ++i) sum[(e * out + o) * in + i] += b[r][o] * a[r][i];
      }
    }
  }
  const device::ParamTable& table;
  std::map<int, std::vector<double>> grads;
  std::vector<int32_t> tokens;
};

TEST_P(EveryLayer, TapSeesFactorsOfEveryWeightGradient) {
  comm::run_threads(2, [&](comm::World& world) {
    LayerRig<double> rig(world, 2, GetParam().text);
    GradientTap tap(rig.params.table);
    const auto x = normals<double>(16 * 6, 1 + world.rank());
    rig.forward(x, some_padding());
    rig.backward(x, some_padding(), normals<double>(16 * 6, 9), counts_of(some_padding(), 4), &tap);
    for (size_t row = 0; row < rig.params.table.rows().size(); ++row) {
      const auto& place = rig.params.layout->at(int(row));
      const double* grad = rig.params.store->grads(place.group).data() + place.offset;
      expect_near(tap.grads.at(int(row)), {grad, grad + place.count}, 1e-12,
                  rig.params.table.row(int(row)).name);
    }
    // Tokens are numbered by expert rank: rank * max_tokens + token, padding never.
    std::vector<int> seen(2);
    for (const int32_t token : tap.tokens) {
      ASSERT_GE(some_padding().at(token % 16), 0);
      ++seen.at(token / 16);
    }
    EXPECT_GT(seen[0], 0);
    EXPECT_GT(seen[1], 0);
  });
}

}  // namespace
}  // namespace cadre::moe
