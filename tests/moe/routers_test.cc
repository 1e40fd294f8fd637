// Routers against their formulas, written once more without any sharing, and against central differences.
#include <algorithm>

#include "tests/moe/router_rig.h"

namespace cadre::moe {
namespace {

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
    EXPECT_EQ(routing.tally[e], routing.expert_offsets[e + 1] - routing.expert_offsets[e]);
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
  EXPECT_EQ(rig.z_sum(), 0);
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
    double sum = z_scale * rig.z_sum();
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
  for (int e = 0; e < kExperts; ++e) EXPECT_EQ(routing.tally[e], e < rig.k ? kReal : 0) << e;
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
  for (int e = 0; e < kExperts; ++e) EXPECT_EQ(routing.tally[e], kReal);
}

}  // namespace
}  // namespace cadre::moe
