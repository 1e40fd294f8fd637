// Learnability (Foster et al. 2025, "Learning to reason at the frontier of learnability", arXiv 2502.12272): prompts are
// worth p (1 - p), the variance of a reward of 0 or 1 at pass rate p, for where all samples of a group are right or all are
// wrong nothing is learnt. By domain, which for `tasks` is a level, so that training moves from level to level by itself:
//   p_k: a moving average of the mean reward;  w_k = floor / K + (1 - floor) p_k (1 - p_k) / sum.
// The floor keeps measuring levels that look hopeless. Before its first reward a domain counts as p = 1/2.
#include <algorithm>
#include <cmath>

#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {

struct LearnabilityConfig {
  double window = 20;  // updates that the average looks back
  double floor = 0.1;  // share that is spread evenly
};

class Learnability final : public LearntMixer {
 public:
  Learnability(const LearnabilityConfig& config, double max_epochs, std::vector<double> uniform)
      : LearntMixer(uniform, max_epochs),
        config_(config),
        uniform_(std::move(uniform)),
        rate_(uniform_.size(), 0.5) {}

  void observe(const Progress&, const DomainStats& stats) override {
    if (stats.reward.empty()) return;
    std::vector<double> worth(rate_.size(), 0.0);
    double sum = 0;
    for (size_t k = 0; k < rate_.size(); ++k) {
      if (std::isfinite(stats.reward[k]))
        rate_[k] += (std::clamp(stats.reward[k], 0.0, 1.0) - rate_[k]) / config_.window;
      if (uniform_[k] > 0) worth[k] = rate_[k] * (1 - rate_[k]);
      sum += worth[k];
    }
    for (size_t k = 0; k < w_.size(); ++k)
      w_[k] = sum > 0 ? config_.floor * uniform_[k] + (1 - config_.floor) * worth[k] / sum : uniform_[k];
  }
  nlohmann::json save() const override { return {{"weights", w_}, {"rate", rate_}}; }
  void load(const nlohmann::json& state) override {
    LearntMixer::load(state);
    rate_ = domain_vector(state, "rate");
  }

 private:
  LearnabilityConfig config_;
  std::vector<double> uniform_, rate_;  // rate_: p
};

}  // namespace

std::unique_ptr<Mixer> make_learnability(base::Section section, const MixerContext& context) {
  LearnabilityConfig config;
  config.window = section.number("window", config.window, {.min = 1});
  config.floor = section.number("floor", config.floor, {.max = 1, .above = 0});
  const double max_epochs = section.number("max_epochs", 0, {.min = 0});
  section.finish();
  return std::make_unique<Learnability>(config, max_epochs,
                                        normalised(text_bounds(context.domain_tokens).hi));
}

}  // namespace cadre::data
