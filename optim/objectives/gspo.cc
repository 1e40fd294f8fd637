// GSPO (arXiv 2507.18071, eq. 5 and 7): the clipped surrogate on the length-normalised ratio of a sequence,
// s = exp(mean_t log r_t). Every token carries the sequence's loss; ds / dlogp_t = s / T, over T tokens s each.
#include <algorithm>
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"

namespace cadre::optim {
namespace {

struct GspoConfig {
  double eps_low = 3e-4, eps_high = 4e-4;
};

class Gspo final : public PolicyRule {
 public:
  explicit Gspo(const GspoConfig& config) : config_(config) {}

  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    double mean = 0;
    for (double d : s.log_ratio) mean += d;
    mean /= double(s.log_ratio.size());
    const double ratio = std::exp(mean), a = s.advantage;
    const double free = -a * ratio,
                 bounded = -a * std::clamp(ratio, 1 - config_.eps_low, 1 + config_.eps_high);
    for (size_t t = 0; t < s.logp.size(); ++t) {
      value[t] = std::max(free, bounded);
      weight[t] = free >= bounded ? ratio * s.slope[t] : 0;
    }
    return 0;
  }

 private:
  GspoConfig config_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_gspo(base::Section section) {
  GspoConfig config;
  config.eps_low = section.number("eps_low", config.eps_low, {.min = 0, .max = 1});
  config.eps_high = section.number("eps_high", config.eps_high, {.min = 0});
  PolicyConfig policy = read_policy(section, {.aggregation = AggregationKind::kSeqMeanTokenMean});
  read_multiplier(section, policy);
  section.finish();
  return make_policy<T>(policy, std::make_unique<Gspo>(config));
}
template std::unique_ptr<Objective<float>> make_gspo(base::Section);
template std::unique_ptr<Objective<double>> make_gspo(base::Section);

}  // namespace cadre::optim
