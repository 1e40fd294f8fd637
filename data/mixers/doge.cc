// DoGE (Fan et al. 2023, arXiv 2310.15393, Alg. 1; out-of-domain form): domains whose gradients align with the
// target's gain. With W_k = <g_k, G>, g_k the mean gradient per token of domain k and G the mean of the targets':
//   log w += clip(lr W_k / mean_j |g_j|, 0, max_score lr) / mu, softmax.
// W comes from an influence probe instead of K backward passes; set influence.direction: gradient for the published
// dot product. The mean norm of the domains' gradients would need those passes too: the norm of the batch's stands
// for it. Its step follows the learning rate, so that the weights freeze as it decays.
#include <algorithm>
#include <cmath>

#include "data/influence_estimate.h"
#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {

struct DogeConfig {
  int64_t period = 1;
  double mu = 0.01, max_score = 5, max_epochs = 0;
};

class Doge final : public LearntMixer {
 public:
  Doge(const DogeConfig& config, std::vector<double> start)
      : LearntMixer(std::move(start), config.max_epochs), config_(config) {}
  Needs needs() const override { return Needs::kInfluence; }
  bool probe_due(const Progress& progress) const override { return every(config_.period, progress); }
  void observe(const Progress& progress, const DomainStats& stats) override {
    if (stats.influence.empty() || !(stats.grad_norm > 0)) return;
    std::vector<double> alignment(w_.size(), 0.0), logits(w_.size());
    for (const InfluenceSums& sums : stats.influence) {
      const auto value = estimate_influence(sums).value;
      for (size_t k = 0; k < w_.size(); ++k) {
        if (std::isfinite(value[k])) alignment[k] += value[k] / double(stats.influence.size());
      }
    }
    std::vector<bool> active;
    for (size_t k = 0; k < w_.size(); ++k) {
      active.push_back(w_[k] > 0);
      const double score =
          std::clamp(progress.lr * alignment[k] / stats.grad_norm, 0.0, config_.max_score * progress.lr);
      logits[k] = active[k] ? std::log(w_[k]) + score / config_.mu : 0;
    }
    w_ = softmax(logits, active);
  }

 private:
  DogeConfig config_;
};

}  // namespace

std::unique_ptr<Mixer> make_doge(base::Section section, const MixerContext& context) {
  DogeConfig c;
  c.period = section.integer("period", c.period, {.min = 1});
  c.mu = section.number("mu", c.mu, {.above = 0});
  c.max_score = section.number("max_score", c.max_score, {.above = 0});
  c.max_epochs = section.number("max_epochs", c.max_epochs, {.min = 0});
  section.finish();
  return std::make_unique<Doge>(c, normalised(text_bounds(context.domain_tokens).hi));
}

}  // namespace cadre::data
