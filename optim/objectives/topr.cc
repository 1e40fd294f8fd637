// TOPR (arXiv 2503.14286) as VESPO's paper compares with it: -sg[w] A log pi, with w = 1 for A >= 0 and min(s, 1) for A < 0,
// where s = exp(mean_t log r_t) is the length-normalised ratio of the sequence.
#include <algorithm>
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"

namespace cadre::optim {
namespace {

class Topr final : public PolicyRule {
 public:
  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    double mean = 0;
    for (double d : s.log_ratio) mean += d;
    mean /= double(s.log_ratio.size());
    const double w = s.advantage >= 0 ? 1 : std::min(std::exp(mean), 1.0);
    for (size_t t = 0; t < s.logp.size(); ++t) {
      weight[t] = w;
      value[t] = -w * s.advantage * s.logp[t];
    }
    return 0;
  }
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_topr(base::Section section) {
  const PolicyConfig policy = read_policy(section);
  section.finish();
  return make_policy<T>(policy, std::make_unique<Topr>());
}
template std::unique_ptr<Objective<float>> make_topr(base::Section);
template std::unique_ptr<Objective<double>> make_topr(base::Section);

}  // namespace cadre::optim
