// VESPO (arXiv 2602.10693 v3, eq. 11 to 14 and 20): REINFORCE whose weight is a function of the ratio W of whole sequences,
//   L = -sum c_i sg[phi(W_i)] A_i log pi(y_it),   phi(W) = W^c1 exp(c2 (1 - W)),
// with other (c1, c2) where A < 0. log W is a sum over the sequence's tokens, never divided by its length. Clamps and
// their order are those of the authors' code.
#include <algorithm>
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"

namespace cadre::optim {
namespace {

struct VespoConfig {
  double positive_c1 = 2, positive_c2 = 3;  // A >= 0
  double negative_c1 = 3, negative_c2 = 2;  // A < 0
  // Above 0: W also holds min(pi_old / pi_rollout, cap) of each token, for engines that disagree.
  double tis_cap = 0;
};

// Where the published code ends the power: ln 1e-8. W itself goes on to e^-20.
constexpr double kLeastW = 1e-8;
constexpr double kLeastC2 = 1e-4;

class Vespo final : public PolicyRule {
 public:
  explicit Vespo(const VespoConfig& config) : config_(config) {}
  bool uses_mismatch() const override { return config_.tis_cap > 0; }
  NamedValues settings() const override {
    return {{"positive_c1", config_.positive_c1},
            {"positive_c2", config_.positive_c2},
            {"negative_c1", config_.negative_c1},
            {"negative_c2", config_.negative_c2},
            {"tis_enabled", config_.tis_cap > 0 ? 1 : 0}};
  }

  double apply(const LiveSequence& s, std::span<double> value, std::span<double> weight) const override {
    double log_tis = 0, log_w = 0;
    for (double d : s.log_ratio) log_w += d;
    if (config_.tis_cap > 0) {
      // As published: the weight is floored at 1e-8 before its logarithm is clamped.
      for (double d : s.log_mismatch)
        log_tis += std::max(std::min(d, std::log(config_.tis_cap)), std::log(kLeastW));
    }
    const double phi = kernel(std::clamp(log_w + log_tis, -kLogRatioClamp, kLogRatioClamp), s.advantage);
    for (size_t t = 0; t < s.logp.size(); ++t) {
      value[t] = -phi * s.advantage * s.logp[t];
      weight[t] = phi;
    }
    return log_tis;
  }

 private:
  double kernel(double log_w, double advantage) const {
    const double c1 = advantage >= 0 ? config_.positive_c1 : config_.negative_c1;
    const double c2 = std::max(kLeastC2, advantage >= 0 ? config_.positive_c2 : config_.negative_c2);
    return std::exp(c2 + c1 * std::max(log_w, std::log(kLeastW)) - c2 * std::exp(log_w));
  }
  VespoConfig config_;
};

void read_pair(base::Section& section, const std::string& key, double& c1, double& c2) {
  const std::vector<double> pair = section.numbers(key, {c1, c2}, {.min = 0});
  if (pair.size() != 2)
    section.reject(key, fmt::format("found {} numbers, expected two: [c1, c2]", pair.size()));
  c1 = pair[0];
  c2 = pair[1];
}

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_vespo(base::Section section) {
  VespoConfig config;
  read_pair(section, "positive", config.positive_c1, config.positive_c2);
  read_pair(section, "negative", config.negative_c1, config.negative_c2);
  const PolicyConfig policy = read_policy(section);
  if (section.has("tis_multiplier_cap")) {
    section.reject(
        "tis_multiplier_cap",
        "vespo takes the mismatch of engines inside W (tis_cap); a weight outside as well would count it "
        "twice");
  }
  if (section.has("tis_cap")) {
    config.tis_cap = section.number("tis_cap", 2, {.above = 0});
    if (policy.behaviour == Behaviour::kRollout) {
      section.reject(
          "tis_cap",
          "with behaviour: rollout W holds the mismatch of the engines already, and token weights inside "
          "would count it twice; use behaviour: old, or leave tis_cap out");
    }
  }
  section.finish();
  return make_policy<T>(policy, std::make_unique<Vespo>(config));
}
template std::unique_ptr<Objective<float>> make_vespo(base::Section);
template std::unique_ptr<Objective<double>> make_vespo(base::Section);

}  // namespace cadre::optim
