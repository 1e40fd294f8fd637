// Every objective once more, written from the formulas of the papers in long double and linear space, without a line in
// common with optim/: what `cadre objective` must agree with.
#pragma once

#include <map>

#include "tests/optim/objective_batches.h"

namespace cadre::optim::testing {

using Real = long double;

struct ReferenceConfig {
  std::string name, aggregation = "token-mean", advantage = "mean_std";
  bool rollout = false;  // behaviour
  double norm_length = 0, eps_low = 0.2, eps_high = 0.2, dual_clip = 3, kl = 0, multiplier = 0;
  double tis = 0;  // vespo: inside W; reinforce: the cap
  bool by_sequence = false;
  double w_min = 0, w_max = 5, tau_positive = 1, tau_negative = 1.05;
  double c1_positive = 2, c2_positive = 3, c1_negative = 3, c2_negative = 2;
};

struct Answer {
  Real loss = 0;
  std::vector<std::vector<Real>> grad;
};

inline std::vector<Real> reference_advantages(const std::string& kind, const std::vector<Sequence>& all) {
  std::vector<Real> out;
  for (const Sequence& s : all) {
    Real sum = 0, n = 0, squares = 0;
    bool equal = true;
    for (const Sequence& o : all) {
      if (o.group != s.group) continue;
      sum += o.reward, n += 1, equal = equal && o.reward == s.reward;
    }
    const Real mean = sum / n, r = s.reward;
    for (const Sequence& o : all) squares += o.group == s.group ? (o.reward - mean) * (o.reward - mean) : 0;
    if (kind == "given") out.push_back(r);
    if (kind == "rloo") out.push_back(n == 1 || equal ? 0 : n / (n - 1) * (r - mean));
    if (kind == "mean") out.push_back(n == 1 ? r : equal ? 0 : r - mean);
    if (kind == "mean_std")
      out.push_back(n == 1 ? r / (1 + 1e-6L) : equal ? 0 : (r - mean) / (sqrtl(squares / (n - 1)) + 1e-6L));
  }
  return out;
}

inline Real clamp20(Real x) {
  return x < -20 ? -20 : x > 20 ? 20 : x;
}

// Loss and derivative of one live token, before aggregation. W, s: of the sequence; r: of the token.
struct TokenAnswer {
  Real loss, grad;
};
inline TokenAnswer reference_token(const ReferenceConfig& c, Real a, Real logp, Real r, Real slope, Real w,
                                   Real s) {
  const auto weighted = [&](Real weight) { return TokenAnswer{-weight * a * logp, -weight * a}; };
  const auto clipped = [&](Real x, Real low, Real high) {
    const bool cut = (a > 0 && x > high) || (a < 0 && x < low);
    const Real bound = a > 0 ? high : low;
    return cut ? TokenAnswer{-a * bound, 0} : TokenAnswer{-a * x, -a * x * slope};
  };
  if (c.name == "cross_entropy") return {-logp, -1};
  if (c.name == "vespo") {
    const Real c1 = a >= 0 ? c.c1_positive : c.c1_negative, c2 = a >= 0 ? c.c2_positive : c.c2_negative;
    return weighted(powl(w < 1e-8L ? 1e-8L : w, c1) * expl(c2 * (1 - w)));
  }
  if (c.name == "reinforce") return weighted(std::min<Real>(c.by_sequence ? w : r, c.tis));
  if (c.name == "cispo") return weighted(r < c.w_min ? c.w_min : r > c.w_max ? c.w_max : r);
  if (c.name == "topr") return weighted(a >= 0 || s > 1 ? 1 : s);
  if (c.name == "gspo") return clipped(s, 1 - Real(c.eps_low), 1 + Real(c.eps_high));
  if (c.name == "sapo") {
    const Real tau = a > 0 ? c.tau_positive : c.tau_negative, e = expl(-tau * (r - 1));
    return {-a * 4 / tau / (1 + e), r > 10000 ? 0 : -a * 4 * e / ((1 + e) * (1 + e)) * r * slope};
  }
  const TokenAnswer plain = clipped(r, 1 - Real(c.eps_low), 1 + Real(c.eps_high));  // grpo, dapo
  if (a < 0 && c.dual_clip > 0 && plain.loss > -a * c.dual_clip) return {-a * c.dual_clip, 0};
  return plain;
}

inline Answer reference(const ReferenceConfig& c, const std::vector<Sequence>& all) {
  const std::vector<Real> advantage = reference_advantages(c.advantage, all);
  Real tokens = 0, rows = 0;
  for (const Sequence& s : all) tokens += live_tokens(s), rows += live_tokens(s) > 0;
  Answer out;
  for (size_t i = 0; i < all.size(); ++i) {
    const Sequence& q = all[i];
    const Real n = live_tokens(q);
    const std::vector<double>& behaviour = c.rollout ? q.rollout : q.old;
    Real sum = 0, tis = 0;
    for (size_t t = 0; t < q.mask.size(); ++t) {
      if (!q.mask[t]) continue;
      sum += clamp20(Real(q.logp[t]) - behaviour[t]);
      const Real omega = std::min<Real>(expl(clamp20(Real(q.old[t]) - q.rollout[t])), c.tis);
      if (c.name == "vespo" && c.tis > 0) tis += logl(std::max<Real>(omega, 1e-8L));
    }
    const Real w = expl(clamp20(sum + tis)), s = n > 0 ? expl(sum / n) : 1;
    Real scale = 1 / tokens;
    if (c.aggregation == "seq-mean-token-sum") scale = 1 / rows;
    if (c.aggregation == "seq-mean-token-mean") scale = 1 / (rows * n);
    if (c.aggregation == "seq-mean-token-sum-norm") scale = 1 / (rows * Real(c.norm_length));
    out.grad.emplace_back(q.mask.size(), 0);
    for (size_t t = 0; t < q.mask.size(); ++t) {
      if (!q.mask[t]) continue;
      const Real d = Real(q.logp[t]) - behaviour[t], slope = d > 20 || d < -20 ? 0 : 1;
      TokenAnswer token = reference_token(c, advantage[i], q.logp[t], expl(clamp20(d)), slope, w, s);
      if (c.multiplier > 0) {
        const Real omega = std::min<Real>(expl(clamp20(Real(q.old[t]) - q.rollout[t])), c.multiplier);
        token = {token.loss * omega, token.grad * omega};
      }
      if (c.kl > 0) {
        const Real x = clamp20(Real(q.reference[t]) - q.logp[t]), k3 = expl(x) - x - 1;
        token.loss += c.kl * (k3 > 10 ? 10 : k3);
        token.grad += k3 > 10 ? 0 : c.kl * (1 - expl(x));
      }
      out.loss += scale * token.loss;
      out.grad[i][t] = scale * token.grad;
    }
  }
  return out;
}

// Pairs (chosen, rejected) of DPO with any loss, as a function of z and its numeric structure in the papers.
inline Answer reference_dpo(const std::string& loss, Real beta, Real e, const std::vector<Sequence>& all) {
  Answer out;
  Real pairs = 0;
  for (size_t i = 0; i < all.size(); i += 2) pairs += live_tokens(all[i]) + live_tokens(all[i + 1]) > 0;
  for (size_t i = 0; i < all.size(); i += 2) {
    Real ratio[2] = {0, 0}, n[2] = {0, 0};
    for (int side = 0; side < 2; ++side) {
      const Sequence& q = all[i + size_t(side)];
      for (size_t t = 0; t < q.mask.size(); ++t) {
        if (q.mask[t]) ratio[side] += Real(q.logp[t]) - q.reference[t], n[side] += 1;
      }
    }
    const Real z = beta * (ratio[0] - ratio[1]), sigma = 1 / (1 + expl(-z));
    Real value = -logl(sigma), g[2] = {-beta * (1 - sigma), beta * (1 - sigma)};
    if (loss == "cdpo" || loss == "robust") {
      const Real sign = loss == "cdpo" ? 1 : -1, norm = loss == "cdpo" ? 1 : 1 - 2 * e;
      value = (-(1 - e) * logl(sigma) - sign * e * logl(1 - sigma)) / norm;
      g[0] = -beta * ((1 - e) * (1 - sigma) - sign * e * sigma) / norm;
      g[1] = -g[0];
    }
    if (loss == "ipo") {
      for (Real& x : n) x = std::max<Real>(x, 1);
      const Real miss = ratio[0] / n[0] - ratio[1] / n[1] - 1 / (2 * beta);
      value = miss * miss;
      g[0] = 2 * miss / n[0];
      g[1] = -2 * miss / n[1];
    }
    const bool counts = live_tokens(all[i]) + live_tokens(all[i + 1]) > 0;
    if (counts) out.loss += value / pairs;
    for (int side = 0; side < 2; ++side) {
      const Sequence& q = all[i + size_t(side)];
      out.grad.emplace_back();
      for (int m : q.mask) out.grad.back().push_back(m ? g[side] / pairs : 0);
    }
  }
  return out;
}

}  // namespace cadre::optim::testing
