// CISPO (arXiv 2506.13585, eq. 4 and 5): -sg[clip(r, w_min, w_max)] A log pi by token; a clipped token still learns. The
// bounds are absolute, not distances from 1: MiniMax uses no lower one, ScaleRL's upper one is 5.
#include <algorithm>
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"

namespace cadre::optim {
namespace {

struct CispoConfig {
  double w_min = 0, w_max = 5;
};

class Cispo final : public PolicyRule {
 public:
  explicit Cispo(const CispoConfig& config) : config_(config) {}

  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    for (size_t t = 0; t < s.logp.size(); ++t) {
      weight[t] = std::clamp(std::exp(s.log_ratio[t]), config_.w_min, config_.w_max);
      value[t] = -weight[t] * s.advantage * s.logp[t];
    }
    return 0;
  }

 private:
  CispoConfig config_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_cispo(base::Section section) {
  CispoConfig config;
  config.w_min = section.number("w_min", config.w_min, {.min = 0});
  config.w_max = section.number("w_max", config.w_max, {.above = 0});
  if (config.w_max < config.w_min)
    section.reject("w_max", fmt::format("found {}, expected at least w_min, {}", config.w_max, config.w_min));
  const PolicyConfig policy = read_policy(section);
  section.finish();
  return make_policy<T>(policy, std::make_unique<Cispo>(config));
}
template std::unique_ptr<Objective<float>> make_cispo(base::Section);
template std::unique_ptr<Objective<double>> make_cispo(base::Section);

}  // namespace cadre::optim
