// GIM, the group-influence mixer: exponentiated gradient on the influence of each domain on the targets, as the
// optimizer would step (trainer/influence), pulled to a prior, capped, and silent when all it sees is noise. Linear
// influence alone has its optimum in a corner of the simplex, so prior and caps are parts of the method.
//
// At the end of a probe, with S_ki the influence per token of domain k on target i and se_ki its error:
//   s_k = mean_i S_ki / mean_j |S_ji|, so that scales of targets, losses and steps do not matter; se_k likewise
//   d_k = s_k - mean_j s_j, shrunk to d~_k = d_k^3 / (d_k^2 + se_k^2)
//   all d~ = 0 when no |d_k| / se_k is beyond the 1 - 0.025 / K quantile of Student's t: K looks at pure noise find
//   nothing in 95%. The t and not the normal distribution, because a probe may see few documents of a domain.
//   w <- (w prior^lambda exp(eta d~))^(1 / (1 + lambda)), normalised; its fixed point is prior exp(eta / lambda d~)
//   w moves at most max_move in total variation, then into lo_k <= w_k <= hi_k by w_k = clamp(c w_k):
//   hi_k = min(range prior_k, what the epochs that are left allow), lo_k = min(prior_k / range, hi_k).
// The form is that of DoGE (Fan et al. 2023, arXiv 2310.15393) with the changes above.
#include <algorithm>
#include <cmath>

#include "data/influence_estimate.h"
#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"
#include "parallel/base/student.h"

namespace cadre::data {
namespace {

using nlohmann::json;

struct GimConfig {
  int64_t period = 200;  // steps between probes
  double eta = 0.2, lambda = 0.1, max_move = 0.1, max_epochs = 4, range = 4;
  bool gate = true;
  std::string prior = "unimax";
};

class Gim final : public LearntMixer {
 public:
  Gim(const GimConfig& config, const MixerContext& context, std::vector<double> prior)
      : LearntMixer(prior, config.max_epochs),
        config_(config),
        context_(context),
        prior_(std::move(prior)),
        drift_(prior_.size(), 0.0),
        used_(prior_.size(), 0.0) {}

  std::vector<double> weights(const Progress&) override { return scale_into(w_, bounds()); }
  Needs needs() const override { return Needs::kInfluence; }
  bool probe_due(const Progress& progress) const override { return every(config_.period, progress); }

  void observe(const Progress&, const DomainStats& stats) override {
    for (size_t k = 0; k < used_.size(); ++k) used_[k] += stats.tokens[k];
    if (stats.influence.empty()) return;
    drift_ = drift(stats.influence);
    std::vector<double> logits(w_.size()), next;
    std::vector<bool> active;
    for (size_t k = 0; k < w_.size(); ++k) {
      active.push_back(prior_[k] > 0);
      if (active[k]) {
        logits[k] = (std::log(w_[k]) + config_.lambda * std::log(prior_[k]) + config_.eta * drift_[k]) /
                    (1 + config_.lambda);
      }
    }
    next = softmax(logits, active);
    double distance = 0;
    for (size_t k = 0; k < w_.size(); ++k) distance += std::abs(next[k] - w_[k]) / 2;
    const double part = distance > config_.max_move ? config_.max_move / distance : 1;
    for (size_t k = 0; k < w_.size(); ++k) w_[k] += part * (next[k] - w_[k]);
    w_ = scale_into(w_, bounds());
  }

  json save() const override { return {{"weights", w_}, {"drift", drift_}, {"used", used_}}; }
  void load(const json& state) override {
    LearntMixer::load(state);
    drift_ = domain_vector(state, "drift");
    used_ = domain_vector(state, "used");
  }

 private:
  // d~ of all domains.
  std::vector<double> drift(const std::vector<InfluenceSums>& influence) const {
    const size_t domains = w_.size();
    // spread: of which Welch's formula (1947) makes the degrees of freedom of a sum of squared errors.
    std::vector<double> s(domains, 0.0), variance(domains, 0.0), spread(domains, 0.0), out(domains, 0.0);
    std::vector<bool> seen(domains, true);
    for (const InfluenceSums& sums : influence) {
      const InfluenceEstimate e = estimate_influence(sums);
      double size = 0, count = 0;
      for (size_t k = 0; k < domains; ++k) {
        seen[k] = seen[k] && std::isfinite(e.value[k]) && std::isfinite(e.error[k]);
        if (seen[k]) size += std::abs(e.value[k]), count += 1;
      }
      const double divisor = (count > 0 ? size / count + 1e-300 : 1) * double(influence.size());
      for (size_t k = 0; k < domains; ++k) {
        if (!seen[k]) continue;
        const double square = (e.error[k] / divisor) * (e.error[k] / divisor);
        s[k] += e.value[k] / divisor;
        variance[k] += square;
        spread[k] += square * square / e.freedom[k];
      }
    }
    double mean = 0, count = 0;
    for (size_t k = 0; k < domains; ++k) {
      if (seen[k]) mean += s[k], count += 1;
    }
    if (count < 2) return out;  // nothing to compare
    mean /= count;
    bool signal = !config_.gate;
    for (size_t k = 0; k < domains; ++k) {
      if (!seen[k]) continue;
      const double d = s[k] - mean;
      signal = signal || stands_out(std::abs(d), variance[k], spread[k], count);
      out[k] = d == 0 ? 0 : d * d * d / (d * d + variance[k]);
    }
    if (!signal) std::fill(out.begin(), out.end(), 0.0);
    return out;
  }

  static bool stands_out(double distance, double variance, double spread, double looks) {
    if (spread <= 0) return distance > 0;
    return base::student_t_cdf(distance / std::sqrt(variance), variance * variance / spread) >=
           1 - 0.025 / looks;
  }

  Bounds bounds() const {
    double used = 0, sum = 0;
    for (const double u : used_) used += u;
    const double left = std::max(1.0, double(context_.total_tokens) - used);
    std::vector<double> epochs(w_.size());
    Bounds b;
    for (size_t k = 0; k < w_.size(); ++k) {
      const double room = config_.max_epochs * double(context_.domain_tokens[k]) - used_[k];
      epochs[k] = prior_[k] > 0 ? std::clamp(room / left, 0.0, 1.0) : 0;
      b.hi.push_back(std::min(epochs[k], config_.range * prior_[k]));
      sum += b.hi[k];
    }
    if (sum < 1) b.hi = epochs;
    sum = 0;
    for (const double h : b.hi) sum += h;
    // The last batches of a run that uses up its caps: the planner hands out what is left.
    if (sum < 1) {
      for (size_t k = 0; k < w_.size(); ++k) b.hi[k] = prior_[k] > 0 ? 1 : 0;
    }
    for (size_t k = 0; k < w_.size(); ++k) b.lo.push_back(std::min(prior_[k] / config_.range, b.hi[k]));
    return b;
  }

  GimConfig config_;
  MixerContext context_;
  std::vector<double> prior_, drift_, used_;  // used: trained tokens by domain
};

}  // namespace

std::unique_ptr<Mixer> make_gim(base::Section section, const MixerContext& context) {
  GimConfig c;
  c.period = section.integer("period", c.period, {.min = 1});
  c.eta = section.number("eta", c.eta, {.above = 0});
  c.lambda = section.number("lambda", c.lambda, {.above = 0});
  c.max_move = section.number("max_move", c.max_move, {.max = 1, .above = 0});
  c.max_epochs = section.number("max_epochs", c.max_epochs, {.above = 0});
  c.range = section.number("range", c.range, {.above = 1});
  c.gate = section.boolean("gate", c.gate);
  c.prior = section.choice("prior", c.prior, {"unimax", "natural", "uniform"});
  std::vector<double> prior;
  if (c.prior == "unimax") {
    prior = unimax_weights(section, context, c.max_epochs);
  } else {
    for (const int64_t tokens : context.domain_tokens)
      prior.push_back(c.prior == "natural" ? double(tokens) : tokens > 0 ? 1 : 0);
    prior = normalised(std::move(prior));
  }
  section.finish();
  return std::make_unique<Gim>(c, context, std::move(prior));
}

}  // namespace cadre::data
