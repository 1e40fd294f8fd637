// Router maths on the CPU: logits, scores, gates, and their gradients. Formulas: docs/design.md and the
// papers named in moe/routers. All sums over experts run in rising order of the expert.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "moe/cpu/entries.h"
#include "parallel/device/kernels.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::Queue;
using device::View;
using device::wide_t;

// Added to the sum of the chosen scores, as DeepSeek-V3's code does: sigmoids of very negative logits may all
// underflow.
constexpr double kShareEpsilon = 1e-20;

template <class T>
void router_linear(Queue& queue, View<const T, 2> x, View<const T, 2> w, View<wide_t<T>, 2> logits) {
  static_assert(std::is_same_v<T, wide_t<T>>, "the CPU stores activations in the type of the router's maths");
  if (x.dim(0) > 0) device::cpu_kernels<T>().gemm(queue, x, w, logits, {.transpose_b = true});
}

template <class T>
void router_linear_backward(Queue& queue, View<const wide_t<T>, 2> dlogits, View<const T, 2> x,
                            View<const T, 2> w, View<T, 2> dx, View<T, 2> dw) {
  if (x.dim(0) == 0) return;
  device::cpu_kernels<T>().gemm(queue, dlogits, w, dx, {.beta = 1});
  device::cpu_kernels<T>().gemm(queue, dlogits, x, dw, {.transpose_a = true, .beta = 1});
}

template <class W>
W log_sum_exp(const W* z, int64_t n, W* exps) {
  const W top = *std::max_element(z, z + n);
  W sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += exps[i] = std::exp(z[i] - top);
  for (int64_t i = 0; i < n; ++i) exps[i] /= sum;
  return top + std::log(sum);
}

template <class W>
void sigmoid_row(const W* z, int64_t n, W* scores, W* probs) {
  W sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += scores[i] = 1 / (1 + std::exp(-z[i]));
  // Not more than the smallest normal number: a larger epsilon would let scores shrink below it to cheat the
  // loss.
  const W scale = 1 / std::max(sum, std::numeric_limits<W>::min());
  for (int64_t i = 0; i < n; ++i) probs[i] = scores[i] * scale;
}

template <class T>
void score(Queue& queue, ScoreRule rule, View<const int32_t, 1> segment, const ScoreViews<T>& v) {
  const int64_t experts = v.logits.dim(1);
  cpu(queue).parallel_for(v.logits.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      auto *probs = v.probs[t].data(), *scores = v.scores[t].data();
      if (segment[t] < 0) {
        std::fill_n(probs, experts, 0);
        std::fill_n(scores, experts, 0);
        v.lse[t] = 0;
        continue;
      }
      v.lse[t] = log_sum_exp(v.logits[t].data(), experts, probs);
      if (rule.kind == ScoreRule::kSigmoid) sigmoid_row(v.logits[t].data(), experts, scores, probs);
    }
  });
}

template <class T>
void top_k_gates(Queue& queue, ScoreRule rule, View<const int32_t, 2> choice, const ScoreViews<T>& v) {
  using W = wide_t<T>;
  const int64_t experts = v.scores.dim(1), k = choice.dim(1);
  cpu(queue).parallel_for(choice.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      std::fill_n(v.gates[t].data(), experts, W(0));
      const int32_t* chosen = choice[t].data();
      if (chosen[0] < 0) continue;
      W factor = W(rule.scale);
      if (rule.share) {
        W sum = W(kShareEpsilon);
        for (int64_t j = 0; j < k; ++j) sum += v.scores[t][chosen[j]];
        factor /= sum;
      }
      for (int64_t j = 0; j < k; ++j) v.gates[t][chosen[j]] = factor * v.scores[t][chosen[j]];
    }
  });
}

// One token. dz holds dL/dg on entry (0 outside the chosen set) and dL/dz on return. With the gates g written
// out, all the rules of the spec's "Gates to logits" become (C the chosen set, zero outside it because g is)
//   share, softmax:  dz_i = g_i (dg_i - sum_C g dg / scale)        share, sigmoid: the same times (1 - s_i)
//   plain, softmax:  dz_i = p_i (u_i - sum_E p u), u = scale dg    plain, sigmoid: dz_i = scale dg_i s_i (1 -
//   s_i)
template <class W>
void gates_to_logits(const ScoreRule& rule, int64_t experts, const W* gates, const W* scores, W* dz) {
  const bool sigmoid = rule.kind == ScoreRule::kSigmoid;
  W dot = 0;
  if (rule.share) {
    for (int64_t i = 0; i < experts; ++i) dot += gates[i] * dz[i];
    dot /= W(rule.scale);
    for (int64_t i = 0; i < experts; ++i) dz[i] = gates[i] * (dz[i] - dot) * (sigmoid ? 1 - scores[i] : W(1));
  } else if (sigmoid) {
    for (int64_t i = 0; i < experts; ++i) dz[i] = W(rule.scale) * dz[i] * scores[i] * (1 - scores[i]);
  } else {
    for (int64_t i = 0; i < experts; ++i) dot += scores[i] * dz[i];
    for (int64_t i = 0; i < experts; ++i) dz[i] = W(rule.scale) * scores[i] * (dz[i] - dot);
  }
}

// Adds the balance loss's part: p = softmax(z), or p = s / sum s with s = sigmoid(z), where ds_i = (dp_i -
// sum p dp) / sum s.
template <class W>
void probs_to_logits(const ScoreRule& rule, int64_t experts, const W* dprobs, const W* probs, const W* scores,
                     W* dz) {
  W dot = 0;
  for (int64_t i = 0; i < experts; ++i) dot += probs[i] * dprobs[i];
  // For the sigmoid, ds_i s_i (1 - s_i) = p_i (dp_i - dot) (1 - s_i).
  const bool sigmoid = rule.kind == ScoreRule::kSigmoid;
  for (int64_t i = 0; i < experts; ++i)
    dz[i] += probs[i] * (dprobs[i] - dot) * (sigmoid ? 1 - scores[i] : W(1));
}

template <class T>
void score_backward(Queue& queue, ScoreRule rule, const Routing<T>& routing, const ScoreViews<T>& v,
                    const RoutingGrad<T>& grad, View<wide_t<T>, 2> dlogits) {
  using W = wide_t<T>;
  const int64_t experts = routing.num_experts;
  std::fill(dlogits.begin(), dlogits.end(), W(0));
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t a = routing.expert_offsets[e]; a < routing.expert_offsets[e + 1]; ++a)
      dlogits[routing.slot_token[a]][e] = grad.slot_gate[a];
  const bool balance = !grad.probs.empty();
  cpu(queue).parallel_for(routing.num_tokens, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      W* dz = dlogits[t].data();
      const W *probs = v.probs[t].data(), *scores = v.scores[t].data();
      gates_to_logits(rule, experts, v.gates[t].data(), scores, dz);
      if (balance) probs_to_logits(rule, experts, grad.probs[t].data(), probs, scores, dz);
      if (grad.z_scale == 0) continue;
      // d lse^2 / dz = 2 lse softmax(z). lse is 0 for padding.
      const W factor = W(2 * grad.z_scale) * v.lse[t];
      if (factor != 0)
        for (int64_t i = 0; i < experts; ++i) dz[i] += factor * std::exp(v.logits[t][i] - v.lse[t]);
    }
  });
}

template <class T>
void add_squares(Queue&, View<const wide_t<T>, 1> values, double scale, View<double, 1> to) {
  double sum = 0;
  for (const auto value : values) sum += double(value) * double(value);
  to[0] += scale * sum;
}

}  // namespace

template <class T>
void add_score_entries(MoeKernels<T>& table) {
  table.router_linear = router_linear<T>;
  table.router_linear_backward = router_linear_backward<T>;
  table.score = score<T>;
  table.top_k_gates = top_k_gates<T>;
  table.score_backward = score_backward<T>;
  table.add_squares = add_squares<T>;
}
template void add_score_entries(MoeKernels<float>&);
template void add_score_entries(MoeKernels<double>&);

}  // namespace cadre::moe
