// Routers against their formulas, written once more without any sharing, and against central differences.
#include <algorithm>
#include <numeric>
#include <optional>

#include "parallel/base/errors.h"
#include "tests/moe/rig.h"

namespace cadre::moe {
namespace {

constexpr int64_t kTokens = 12, kDim = 5;
constexpr int kExperts = 6;
constexpr int64_t kReal = 9;      // tokens that are not padding
constexpr int64_t kCapacity = 3;  // of expert choice with c = 2: ceil(9 * 2 / 6), and not ceil(12 * 2 / 6)

// A router of E experts alone, with x and its parameters.
template <class T>
struct RouterRig {
  RouterRig(const std::string& router_text, int top_k)
      : config(moe_config(
            fmt::format("{{num_experts: {}, top_k: {}, capacity_factor: 0, balance: none, router: {}}}",
                        kExperts, top_k, router_text))),
        k(top_k),
        x(normals<T>(kTokens * kDim, 3)),
        segment(kTokens, 0) {
    segment[4] = segment[7] = segment[11] = -1;
    router = make_router<T>(config, {.dim = kDim,
                                     .max_tokens = kTokens + 3,
                                     .num_experts = kExperts,
                                     .top_k = top_k,
                                     .kernels = &cpu_moe_kernels<T>()});
    router->declare(params.table, "m", 0);
    params.build(1, 0, 11);
    router->bind(*params.store);
    router->reserve(saved, scratch);
    saved.allocate();
    scratch.allocate();
    scratch.release(0);
    router->reserve(saved, scratch);
  }
  Routing<T>& forward() {
    return router->forward(queue, view(x, {kTokens, kDim}), view(segment, {kTokens}), true);
  }
  // (T, E) dot products with the parameter seen as rows of D.
  std::vector<double> products() const {
    const auto w = params.store->values(device::Group::kDense);
    const int64_t rows = w.size() / kDim;
    std::vector<double> z(kTokens * rows);
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < kDim; ++d)
          z[t * rows + r] += double(x[t * kDim + d]) * double(w[r * kDim + d]);
    return z;
  }

  MoeConfig config;
  int k;
  std::vector<T> x;
  std::vector<int32_t> segment;
  device::CpuQueue queue{2};
  std::unique_ptr<Router<T>> router;
  Params<T> params;
  device::Arena saved{"saved", device::DeviceKind::kCpu}, scratch{"scratch", device::DeviceKind::kCpu};
};

// gates[t][e], 0 where e was not chosen.
template <class T>
std::vector<std::vector<double>> dense_gates(const Routing<T>& routing) {
  std::vector<std::vector<double>> gates(routing.num_tokens, std::vector<double>(routing.num_experts));
  for (int64_t e = 0; e < routing.num_experts; ++e)
    for (int64_t a = routing.expert_offsets[e]; a < routing.expert_offsets[e + 1]; ++a)
      gates[routing.slot_token[a]][e] = routing.slot_gate[a];
  return gates;
}

std::vector<double> softmax(std::vector<double> z) {
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v);
  for (double& v : z) v /= sum;
  return z;
}

std::vector<int> best(const std::vector<double>& scores, int k) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  order.resize(k);
  return order;
}

using NaiveGates = std::vector<double> (*)(std::vector<double> z);  // one token's products to its gates

struct Case {
  const char* name;
  const char* text;
  int k;
  NaiveGates naive;  // null for expert choice
};

std::vector<double> mixtral(std::vector<double> z) {
  std::vector<double> gates(z.size()), chosen;
  const auto top = best(z, 2);
  for (int e : top) chosen.push_back(z[e]);
  chosen = softmax(chosen);
  for (int j = 0; j < 2; ++j) gates[top[j]] = chosen[j];
  return gates;
}
std::vector<double> olmoe(std::vector<double> z) {
  std::vector<double> gates(z.size());
  const auto p = softmax(z);
  for (int e : best(p, 3)) gates[e] = p[e];
  return gates;
}
std::vector<double> deepseek(std::vector<double> z) {
  for (double& v : z) v = 1 / (1 + std::exp(-v));
  // Three groups of two, two kept.
  std::vector<double> groups(3), gates(z.size()), masked(z.size(), -INFINITY);
  for (int g = 0; g < 3; ++g) groups[g] = z[2 * g] + z[2 * g + 1];
  for (int g : best(groups, 2))
    for (int e : {2 * g, 2 * g + 1}) masked[e] = z[e];
  double sum = 0;
  const auto top = best(masked, 2);
  for (int e : top) sum += z[e];
  for (int e : top) gates[e] = 2.5 * z[e] / sum;
  return gates;
}
std::vector<double> autonomy(std::vector<double> h) {
  std::vector<double> norms(kExperts);
  const size_t rank = h.size() / kExperts;
  for (size_t i = 0; i < h.size(); ++i) norms[i / rank] += h[i] * h[i];
  for (double& n : norms) n = std::sqrt(n);
  return mixtral(norms);
}

const Case kCases[] = {
    {"mixtral", "{name: softmax_topk}", 2, mixtral},
    {"olmoe", "{name: softmax_topk, normalize: false}", 3, olmoe},
    {"sigmoid_bias", "{name: sigmoid_bias, route_scale: 2.5, groups: 3, groups_kept: 2}", 2, deepseek},
    {"autonomy", "{name: autonomy, rank: 3}", 2, autonomy},
    {"expert_choice", "{name: expert_choice}", 2, nullptr},
};

class EveryRouter : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Routers, EveryRouter, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(RouterTable, HasNoRowThatTheseTestsLeaveOut) {
  for (const auto& entry : router_table<double>())
    EXPECT_TRUE(std::any_of(std::begin(kCases), std::end(kCases), [&](const Case& c) {
      return std::string(c.text).find(entry.name) != std::string::npos;
    })) << entry.name;
}

TEST_P(EveryRouter, GivesTheGatesOfItsFormula) {
  RouterRig<double> rig(GetParam().text, GetParam().k);
  const auto& routing = rig.forward();
  const auto gates = dense_gates(routing);
  const auto z = rig.products();
  const size_t width = z.size() / kTokens;
  for (int64_t t = 0; t < kTokens && GetParam().naive; ++t) {
    std::vector<double> expected(kExperts);
    if (rig.segment[t] >= 0)
      expected = GetParam().naive({z.begin() + t * width, z.begin() + (t + 1) * width});
    for (int e = 0; e < kExperts; ++e) EXPECT_NEAR(gates[t][e], expected[e], 1e-12) << t << " " << e;
  }
  // Slots are sorted by expert, then token, and counted.
  for (int e = 0; e < kExperts; ++e) {
    EXPECT_EQ(routing.chosen[e], routing.expert_offsets[e + 1] - routing.expert_offsets[e]);
    for (int64_t a = routing.expert_offsets[e]; a + 1 < routing.expert_offsets[e + 1]; ++a)
      EXPECT_LT(routing.slot_token[a], routing.slot_token[a + 1]);
  }
  EXPECT_EQ(routing.num_slots, routing.expert_offsets[kExperts]);
}

TEST_P(EveryRouter, DoesNotRoutePadding) {
  RouterRig<double> rig(GetParam().text, GetParam().k);
  const auto& routing = rig.forward();
  for (int64_t a = 0; a < routing.num_slots; ++a) EXPECT_GE(rig.segment[routing.slot_token[a]], 0);
  for (int64_t t = 0; t < kTokens; ++t) {
    double sum = 0;
    for (const double p : routing.probs[t]) sum += p;
    EXPECT_NEAR(sum, rig.segment[t] >= 0 ? 1 : 0, 1e-12);
  }
  std::fill(rig.segment.begin(), rig.segment.end(), -1);
  EXPECT_EQ(rig.forward().num_slots, 0);
  EXPECT_EQ(rig.router->z_sum(), 0);
}

// L = sum of random weights times every output: gates, probabilities, hints, and the z-loss.
TEST_P(EveryRouter, GradientMatchesCentralDifferences) {
  RouterRig<double> rig(GetParam().text, GetParam().k);
  const auto c_gate = normals<double>(rig.router->max_slots(), 21),
             c_probs = normals<double>(kTokens * kExperts, 22);
  const int64_t hint = rig.router->hint_width();
  const auto c_hint = normals<double>(rig.router->max_slots() * hint, 23);
  const double z_scale = 0.3;
  auto loss = [&] {
    const auto& routing = rig.forward();
    double sum = z_scale * rig.router->z_sum();
    for (int64_t a = 0; a < routing.num_slots; ++a) {
      sum += c_gate[a] * routing.slot_gate[a];
      for (int64_t i = 0; i < hint; ++i) sum += c_hint[a * hint + i] * routing.slot_hint[a][i];
    }
    for (int64_t i = 0; i < kTokens * kExperts; ++i) sum += c_probs[i] * routing.probs.data()[i];
    return sum;
  };
  loss();
  std::vector<double> dx(rig.x.size(), 0.5);  // the router adds to what is there
  const int64_t slots = rig.forward().num_slots;
  RoutingGrad<double> grad{.slot_gate = view(c_gate, {slots}),
                           .probs = view(c_probs, {kTokens, int64_t(kExperts)}),
                           .slot_hint = {},
                           .z_scale = z_scale};
  if (hint > 0) grad.slot_hint = view(c_hint, {slots, hint});
  rig.router->backward(rig.queue, view(std::as_const(rig.x), {kTokens, kDim}), grad,
                       view(dx, {kTokens, kDim}), nullptr);
  for (double& d : dx) d -= 0.5;
  const auto grads = rig.params.store->grads(device::Group::kDense);
  expect_gradient(rig.params.store->values(device::Group::kDense), {grads.begin(), grads.end()}, loss,
                  "weight");
  expect_gradient(view(rig.x, {kTokens * kDim}), dx, loss, "x");
}

TEST_P(EveryRouter, FloatAgreesWithDouble) {
  RouterRig<double> wide(GetParam().text, GetParam().k);
  RouterRig<float> narrow(GetParam().text, GetParam().k);
  const auto expected = dense_gates(wide.forward()), found = dense_gates(narrow.forward());
  for (int64_t t = 0; t < kTokens; ++t)
    for (int e = 0; e < kExperts; ++e) EXPECT_NEAR(found[t][e], expected[t][e], 1e-5) << t << " " << e;
}

TEST_P(EveryRouter, GivesTheSameBitsWhenRepeated) {
  RouterRig<float> a(GetParam().text, GetParam().k), b(GetParam().text, GetParam().k);
  EXPECT_EQ(dense_gates(a.forward()), dense_gates(b.forward()));
  EXPECT_EQ(dense_gates(a.forward()), dense_gates(b.forward()));
}

TEST_P(EveryRouter, BreaksTiesTowardsTheLowerIndex) {
  RouterRig<double> rig(GetParam().text, GetParam().k);
  for (double& w : rig.params.store->values(device::Group::kDense)) w = 0;
  const auto& routing = rig.forward();
  if (!rig.router->causal()) {
    // Every expert took the first real tokens.
    for (int e = 0; e < kExperts; ++e)
      for (int64_t i = 0; i < kCapacity; ++i) EXPECT_EQ(routing.slot_token[routing.expert_offsets[e] + i], i);
    return;
  }
  for (int e = 0; e < kExperts; ++e) EXPECT_EQ(routing.chosen[e], e < rig.k ? kReal : 0) << e;
}

TEST_P(EveryRouter, StillChoosesDistinctExpertsWhenActivationsAreNotNumbers) {
  RouterRig<float> rig(GetParam().text, GetParam().k);
  for (float& v : rig.x) v = NAN;
  const auto& routing = rig.forward();
  EXPECT_EQ(routing.num_slots, rig.router->causal() ? kReal * rig.k : kExperts * kCapacity);
  for (int64_t a = 0; a < routing.num_slots; ++a) {
    EXPECT_GE(routing.slot_token[a], 0);
    EXPECT_TRUE(std::isnan(routing.slot_gate[a]));
  }
}

TEST_P(EveryRouter, TakesAllExpertsWhenKIsE) {
  if (std::string(GetParam().text).find("groups") != std::string::npos)
    GTEST_SKIP() << "groups leave experts out";
  RouterRig<double> rig(GetParam().text, kExperts);
  const auto& routing = rig.forward();
  for (int e = 0; e < kExperts; ++e) EXPECT_EQ(routing.chosen[e], kReal);
}

TEST(ExpertChoice, GivesEveryExpertItsBestTokensByColumn) {
  RouterRig<double> rig("{name: expert_choice}", 2);
  const auto& routing = rig.forward();
  const auto z = rig.products();
  std::vector<std::vector<double>> p;
  for (int64_t t = 0; t < kTokens; ++t)
    p.push_back(softmax({z.begin() + t * kExperts, z.begin() + (t + 1) * kExperts}));
  for (int e = 0; e < kExperts; ++e) {
    std::vector<double> column;
    for (int64_t t = 0; t < kTokens; ++t) column.push_back(rig.segment[t] >= 0 ? p[t][e] : -1);
    auto expected = best(column, kCapacity);
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(routing.chosen[e], kCapacity);
    for (int i = 0; i < kCapacity; ++i) {
      EXPECT_EQ(routing.slot_token[kCapacity * e + i], expected[i]);
      EXPECT_NEAR(routing.slot_gate[kCapacity * e + i], p[expected[i]][e], 1e-12);
    }
  }
  EXPECT_FALSE(rig.router->causal());
  EXPECT_TRUE(rig.router->split_dependent());
}

TEST(SigmoidBias, MovesTheBiasAgainstTheLoadAndKeepsItsMean) {
  RouterRig<double> rig("{name: sigmoid_bias, bias_update_rate: 0.25}", 2);
  rig.router->after_step({9, 1, 5, 5, 5, 5});  // mean 5: one above, one below
  rig.router->after_step({9, 5, 5, 5, 5, 1});
  rig.router->after_step({8, 4, 4, 4, 4, 0});
  rig.router->after_step({9, 4.2, 4.2, 4.2, 4.2, 4.2});  // one above, five below: mean change 4/6 of 0.25
  StateDict state;
  rig.router->save(state, "m");
  const double shift = 0.25 * 4 / 6;
  const std::vector<double> expected = {-1 - shift,   0.5 - shift,  0.25 - shift,
                                        0.25 - shift, 0.25 - shift, 0.75 - shift};
  for (int e = 0; e < kExperts; ++e) EXPECT_NEAR(state.at("m.router.bias")[e], expected[e], 1e-12) << e;
}

TEST(SigmoidBias, ChoosesWithTheBiasButKeepsItOutOfTheGates) {
  RouterRig<double> rig("{name: sigmoid_bias}", 2), loaded("{name: sigmoid_bias}", 2);
  StateDict state = {{"m.router.bias", {0, 5, 0, 0, 9, 0}}};
  loaded.router->load(state, "m");
  const auto gates = dense_gates(loaded.forward());
  const auto z = rig.products();
  for (int64_t t = 0; t < kTokens; ++t) {
    if (rig.segment[t] < 0) continue;
    const double s1 = 1 / (1 + std::exp(-z[t * kExperts + 1])), s4 = 1 / (1 + std::exp(-z[t * kExperts + 4]));
    EXPECT_NEAR(gates[t][1], s1 / (s1 + s4), 1e-12);
    EXPECT_NEAR(gates[t][4], s4 / (s1 + s4), 1e-12);
  }
  StateDict again;
  loaded.router->save(again, "m");
  EXPECT_EQ(again, state);
  EXPECT_THROW(loaded.router->load({}, "m"), Error);
  EXPECT_THROW(loaded.router->load({{"m.router.bias", {1, 2}}}, "m"), Error);
}

TEST(SigmoidBias, NeverLeavesTheKeptGroupsEvenWhenTheirScoresAreNegative) {
  RouterRig<double> rig("{name: sigmoid_bias, groups: 3, groups_kept: 1}", 2);
  // All s + b are negative; masking with 0 instead of -infinity would choose outside the kept group.
  rig.router->load({{"m.router.bias", {-9, -9, -3, -3, -9, -9}}}, "m");
  const auto& routing = rig.forward();
  EXPECT_EQ(routing.chosen[2], kReal);
  EXPECT_EQ(routing.chosen[3], kReal);
}

// Three tokens of expert 0 with p = .5, .9, .7; capacity 2.
struct Crowded {
  Crowded()
      : probs{0.5, 0, 0.9, 0, 0.7, 0, 0, 1},
        offsets{0, 3, 4},
        tokens{0, 1, 2, 3},
        gates{5, 9, 7, 1},
        order(4) {
    routing.num_tokens = 4;
    routing.num_experts = 2;
    routing.num_slots = 4;
    routing.probs = view(probs, {4, 2});
    routing.expert_offsets = view(offsets, {3});
    routing.slot_token = view(tokens, {4});
    routing.slot_gate = view(gates, {4});
  }
  void limit(DropPolicy policy) {
    device::CpuQueue queue(1);
    cpu_moe_kernels<double>().limit_capacity(queue, 2, policy, view(order, {4}), routing);
  }
  std::vector<double> probs;
  std::vector<int64_t> offsets;
  std::vector<int32_t> tokens;
  std::vector<double> gates;
  std::vector<int32_t> order;
  Routing<double> routing;
};

TEST(Capacity, DropsTheLowestProbability) {
  Crowded crowded;
  crowded.limit(DropPolicy::kLowestProbability);
  EXPECT_EQ(crowded.routing.dropped, 1);
  EXPECT_EQ(crowded.routing.num_slots, 3);
  EXPECT_EQ(crowded.offsets, (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ((std::vector<int32_t>{crowded.tokens.begin(), crowded.tokens.begin() + 3}),
            (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ((std::vector<double>{crowded.gates.begin(), crowded.gates.begin() + 3}),
            (std::vector<double>{9, 7, 1}));
}

TEST(Capacity, DropsTheLastByPosition) {
  Crowded crowded;
  crowded.limit(DropPolicy::kPosition);
  EXPECT_EQ(crowded.routing.dropped, 1);
  EXPECT_EQ((std::vector<int32_t>{crowded.tokens.begin(), crowded.tokens.begin() + 3}),
            (std::vector<int32_t>{0, 1, 3}));
}

// Every message names the line or the table, and what to change.
TEST(MoeConfig, RefusesWhatCannotWork) {
  const std::pair<const char*, const char*> cases[] = {
      {"{num_experts: 4, top_k: 5}", "moe.top_k: found 5, expected at most num_experts = 4"},
      {"{num_expert: 4}", "num_experts"},
      {"{num_experts: -4}", "num_experts"},
      {"{num_experts: four}", "num_experts"},
      {"{capacity_factor: -1}", "capacity_factor"},
      {"{drop: random}", "lowest_probability"},
      {"{router: {name: softmax_topkk}}", "did you mean 'softmax_topk'"},
      {"{router: {name: softmax_topk, normalise: true}}", "did you mean 'normalize'"},
      {"{balance: {name: batch}}", "micro_batch"},
      {"{balance: {name: sequence, coef: -1}}", "coef"},
      {"{num_experts: 8, router: {name: sigmoid_bias, groups: 3}}", "3 groups do not divide the 8 experts"},
      {"{num_experts: 8, router: {name: sigmoid_bias, groups: 4, groups_kept: 5}}", "groups_kept"},
      {"{num_experts: 8, top_k: 4, router: {name: sigmoid_bias, groups: 4, groups_kept: 1}}",
       "hold 2 experts"},
      {"{router: expert_choice}", "balance"},
      {"{router: expert_choice, balance: none, capacity_factor: 1}", "capacity_factor"},
  };
  for (const auto& [text, part] : cases) {
    try {
      moe_config(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << text << ": " << error.what();
    }
  }
  const MoeConfig defaults = moe_config("{}");
  EXPECT_EQ(defaults.num_experts, 8);
}

}  // namespace
}  // namespace cadre::moe
