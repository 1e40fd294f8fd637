#include "optim/objectives/clipped.h"

#include <algorithm>
#include <cmath>

namespace cadre::optim {
namespace {

class Clipped final : public PolicyRule {
 public:
  explicit Clipped(const ClippedConfig& config) : config_(config) {}

  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    const double a = s.advantage;
    for (size_t t = 0; t < s.logp.size(); ++t) {
      const double r = std::exp(s.log_ratio[t]);
      const double free = -a * r, bounded = -a * std::clamp(r, 1 - config_.eps_low, 1 + config_.eps_high);
      value[t] = std::max(free, bounded);
      weight[t] = free >= bounded ? r * s.slope[t] : 0;
      if (config_.dual_clip > 0 && a < 0 && value[t] > -a * config_.dual_clip) {
        value[t] = -a * config_.dual_clip;
        weight[t] = 0;
      }
    }
    return 0;
  }

 private:
  ClippedConfig config_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_clipped(base::Section section, ClippedConfig config,
                                           const PolicyDefaults& defaults) {
  config.eps_low = section.number("eps_low", config.eps_low, {.min = 0, .max = 1});
  config.eps_high = section.number("eps_high", config.eps_high, {.min = 0});
  config.dual_clip = section.number("dual_clip", config.dual_clip, {.min = 0});
  if (config.dual_clip > 0 && config.dual_clip <= 1)
    section.reject("dual_clip",
                   fmt::format("found {}, expected more than 1, or 0 for none", config.dual_clip));
  PolicyConfig policy = read_policy(section, defaults);
  policy.kl_coef = section.number("kl_coef", 0, {.min = 0});
  read_multiplier(section, policy);
  section.finish();
  return make_policy<T>(policy, std::make_unique<Clipped>(config));
}
template std::unique_ptr<Objective<float>> make_clipped(base::Section, ClippedConfig, const PolicyDefaults&);
template std::unique_ptr<Objective<double>> make_clipped(base::Section, ClippedConfig, const PolicyDefaults&);

}  // namespace cadre::optim
