// REINFORCE with truncated importance weights: L = -sum c_i sg[min(r, C)] A log pi, with r the ratio of a token, or of
// the sequence (a product over its tokens). tis_cap: 0 leaves the weight out.
#include <algorithm>
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"

namespace cadre::optim {
namespace {

struct ReinforceConfig {
  double tis_cap = 2;
  bool by_sequence = false;
};

class Reinforce final : public PolicyRule {
 public:
  explicit Reinforce(const ReinforceConfig& config) : config_(config) {}
  bool uses_behaviour() const override { return config_.tis_cap > 0; }

  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    double log_w = 0;
    for (double d : s.log_ratio) log_w += d;
    log_w = std::clamp(log_w, -kLogRatioClamp, kLogRatioClamp);
    for (size_t t = 0; t < s.logp.size(); ++t) {
      weight[t] = 1;
      if (config_.tis_cap > 0)
        weight[t] = std::min(std::exp(config_.by_sequence ? log_w : s.log_ratio[t]), config_.tis_cap);
      value[t] = -weight[t] * s.advantage * s.logp[t];
    }
    return 0;
  }

 private:
  ReinforceConfig config_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_reinforce(base::Section section) {
  ReinforceConfig config;
  config.tis_cap = section.number("tis_cap", config.tis_cap, {.min = 0});
  config.by_sequence = section.choice("level", "token", {"token", "sequence"}) == "sequence";
  const PolicyConfig policy = read_policy(section, {.behaviour = Behaviour::kRollout});
  section.finish();
  return make_policy<T>(policy, std::make_unique<Reinforce>(config));
}
template std::unique_ptr<Objective<float>> make_reinforce(base::Section);
template std::unique_ptr<Objective<double>> make_reinforce(base::Section);

}  // namespace cadre::optim
