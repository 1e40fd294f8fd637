// TiKMiX-D (Wang et al. 2025, arXiv 2508.17677, section 3): the mix whose influence on all targets is large, even
// over targets and not concentrated, and for no target below that of the prior mix. With S_ki the influence of
// domain k on target i, P_i = sum_k w_k S_ki and p_i = P_i / max_k S_ki:
//   min_w std(p) - sum_i p_i - entropy(w)   over the simplex, with P_i(w) >= P_i(prior).
// Convex; solved by projected gradient on the augmented Lagrangian. A target that no domain helps is left out, since
// dividing by its largest influence would turn its sign. The published method uses EK-FAC for S; here it is the
// influence along the optimizer's direction.
#include <algorithm>
#include <cmath>

#include "data/influence_estimate.h"
#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {

struct TikmixConfig {
  int64_t period = 1000;
  double spread = 1, gain = 1, entropy = 1, max_epochs = 0;
};

class Tikmix final : public LearntMixer {
 public:
  Tikmix(const TikmixConfig& config, std::vector<double> prior, Bounds bounds)
      : LearntMixer(prior, config.max_epochs),
        config_(config),
        prior_(std::move(prior)),
        bounds_(std::move(bounds)) {}
  Needs needs() const override { return Needs::kInfluence; }
  bool probe_due(const Progress& progress) const override { return every(config_.period, progress); }

  void observe(const Progress&, const DomainStats& stats) override {
    std::vector<std::vector<double>> p;  // by target: S_ki / max_k S_ki
    for (const InfluenceSums& sums : stats.influence) {
      auto value = estimate_influence(sums).value;
      double most = 0;
      for (double& v : value) {
        if (!std::isfinite(v)) v = 0;
        most = std::max(most, v);
      }
      if (most <= 0) continue;
      for (double& v : value) v /= most;
      p.push_back(std::move(value));
    }
    if (!p.empty()) w_ = solve(p);
  }

 private:
  std::vector<double> solve(const std::vector<std::vector<double>>& p) const {
    const size_t domains = w_.size(), targets = p.size();
    std::vector<double> least, multiplier(targets, 0.0), w = prior_;
    for (const auto& row : p) least.push_back(dot(row, prior_));
    double penalty = 10;
    const auto lagrangian = [&](const std::vector<double>& at, std::vector<double>& gradient) {
      std::vector<double> value, slope(targets, 0.0);
      double mean = 0, variance = 0, f = 0;
      for (const auto& row : p) value.push_back(dot(row, at)), mean += value.back() / double(targets);
      for (const double v : value) variance += (v - mean) * (v - mean) / double(targets);
      const double spread = std::sqrt(variance);
      for (size_t i = 0; i < targets; ++i) {
        f -= config_.gain * value[i];
        slope[i] -= config_.gain;
        if (spread > 1e-12) slope[i] += config_.spread * (value[i] - mean) / spread / double(targets);
        const double pressure = multiplier[i] + penalty * (least[i] - value[i]);
        if (pressure > 0) f += pressure * pressure / (2 * penalty), slope[i] -= pressure;
      }
      f += config_.spread * spread;
      for (size_t k = 0; k < domains; ++k) {
        const double x = std::max(at[k], 1e-12);
        f += config_.entropy * at[k] * std::log(x);
        gradient[k] = config_.entropy * (std::log(x) + 1);
        for (size_t i = 0; i < targets; ++i) gradient[k] += slope[i] * p[i][k];
      }
      return f;
    };
    for (int round = 0; round < 30; ++round) {
      w = minimise_on_simplex(lagrangian, bounds_, w, 2000);
      double worst = 0;
      for (size_t i = 0; i < targets; ++i) {
        const double missing = least[i] - dot(p[i], w);
        multiplier[i] = std::max(0.0, multiplier[i] + penalty * missing);
        worst = std::max(worst, missing);
      }
      if (worst < 1e-9) break;
      penalty = std::min(1e4, penalty * 2);
    }
    return w;
  }
  static double dot(const std::vector<double>& x, const std::vector<double>& y) {
    double sum = 0;
    for (size_t k = 0; k < x.size(); ++k) sum += x[k] * y[k];
    return sum;
  }

  TikmixConfig config_;
  std::vector<double> prior_;
  Bounds bounds_;
};

}  // namespace

std::unique_ptr<Mixer> make_tikmix(base::Section section, const MixerContext& context) {
  TikmixConfig c;
  c.period = section.integer("period", c.period, {.min = 1});
  c.spread = section.number("spread", c.spread, {.min = 0});
  c.gain = section.number("gain", c.gain, {.above = 0});
  c.entropy = section.number("entropy", c.entropy, {.min = 0});
  c.max_epochs = section.number("max_epochs", c.max_epochs, {.min = 0});
  section.finish();
  std::vector<double> natural(context.domain_tokens.begin(), context.domain_tokens.end());
  return std::make_unique<Tikmix>(c, normalised(std::move(natural)), text_bounds(context.domain_tokens));
}

}  // namespace cadre::data
