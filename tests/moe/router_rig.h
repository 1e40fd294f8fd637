// A router alone with its memory and input, and the two functions that naive formulas need.
#pragma once

#include <algorithm>
#include <numeric>

#include "tests/moe/rig.h"

namespace cadre::moe {

inline constexpr int64_t kTokens = 12, kDim = 5;
inline constexpr int kExperts = 6;
inline constexpr int64_t kReal = 9;  // tokens that are not padding
inline constexpr int64_t kCapacity =
    3;  // of expert choice with c = 2: ceil(9 * 2 / 6), and not ceil(12 * 2 / 6)

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
                                     .kernels = &cpu_moe_kernels<T>(),
                                     .dense = &device::cpu_kernels<T>()});
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
    return router->forward(queue, view(x, {kTokens, kDim}), view(segment, {kTokens}), real_tokens(segment),
                           true);
  }
  // What add_z_loss adds at scale 1.
  double z_sum() {
    double sum = 0;
    router->add_z_loss(queue, 1, {&sum, {1}});
    return sum;
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

inline std::vector<double> softmax(std::vector<double> z) {
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v);
  for (double& v : z) v /= sum;
  return z;
}

inline std::vector<int> best(const std::vector<double>& scores, int k) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  order.resize(k);
  return order;
}

}  // namespace cadre::moe
