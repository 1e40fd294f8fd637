// SAPO (arXiv 2511.20347, eq. 6 to 8): a soft gate in place of the clip, -A (4 / tau) sigmoid(tau (r - 1)) by token, with a
// steeper one for A <= 0. The weight 4 q (1 - q) r with q the sigmoid is 1 at r = 1.
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"

namespace cadre::optim {
namespace {

struct SapoConfig {
  double tau_positive = 1.0, tau_negative = 1.05;
};

class Sapo final : public PolicyRule {
 public:
  explicit Sapo(const SapoConfig& config) : config_(config) {}

  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    const double tau = s.advantage > 0 ? config_.tau_positive : config_.tau_negative;
    for (size_t t = 0; t < s.logp.size(); ++t) {
      const double r = std::exp(s.log_ratio[t]), x = tau * (r - 1);
      // q (1 - q) from exp(-|x|): 1 - q would be 0 for large x, where the product is still a number.
      const double e = std::exp(-std::abs(x)), q = (x >= 0 ? 1 : e) / (1 + e);
      value[t] = -s.advantage * (4 / tau) * q;
      weight[t] = 4 * e / ((1 + e) * (1 + e)) * r * s.slope[t];
    }
    return 0;
  }

 private:
  SapoConfig config_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_sapo(base::Section section) {
  SapoConfig config;
  config.tau_positive = section.number("tau_positive", config.tau_positive, {.above = 0});
  config.tau_negative = section.number("tau_negative", config.tau_negative, {.above = 0});
  PolicyConfig policy = read_policy(section, {.aggregation = AggregationKind::kSeqMeanTokenMean});
  read_multiplier(section, policy);
  section.finish();
  return make_policy<T>(policy, std::make_unique<Sapo>(config));
}
template std::unique_ptr<Objective<float>> make_sapo(base::Section);
template std::unique_ptr<Objective<double>> make_sapo(base::Section);

}  // namespace cadre::optim
