// The whole layer: against loops over tokens, against central differences, and at the edges.
#include <algorithm>
#include <map>

#include "parallel/base/errors.h"
#include "tests/moe/layer_cases.h"

namespace cadre::moe {
namespace {

class EveryLayer : public testing::TestWithParam<LayerCase> {};
INSTANTIATE_TEST_SUITE_P(Layers, EveryLayer, testing::ValuesIn(kLayerCases), layer_case_name);

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
