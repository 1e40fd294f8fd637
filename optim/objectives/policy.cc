#include "optim/objectives/policy.h"

#include <algorithm>
#include <cmath>

#include "optim/objectives/segments.h"

namespace cadre::optim {
namespace {

double clamped(double x) {
  return std::clamp(x, -kLogRatioClamp, kLogRatioClamp);
}

template <class T>
class Policy final : public Objective<T> {
 public:
  using W = device::wide_t<T>;
  Policy(const PolicyConfig& config, std::unique_ptr<PolicyRule> rule)
      : config_(config), rule_(std::move(rule)) {
    const bool mismatch = rule_->uses_mismatch() || config.tis_multiplier_cap > 0;
    const bool old = config.behaviour == Behaviour::kOld;
    inputs_ = {.advantage = true,
               .old = mismatch || (rule_->uses_behaviour() && old),
               .rollout = mismatch || (rule_->uses_behaviour() && !old),
               .reference = config.kl_coef > 0,
               .advantage_kind = config.advantage};
  }

  ObjectiveInputs inputs() const override { return inputs_; }
  NamedValues settings() const override { return rule_->settings(); }

  double loss_and_grad(device::View<const W, 1> logp, const Batch& batch, const BatchCounts& counts,
                       device::View<W, 1> dlogp) override {
    check(batch);
    std::fill_n(dlogp.data(), dlogp.size(), W(0));
    double loss = 0;
    for_each_segment(batch, [&](size_t segment, const std::vector<size_t>& live) {
      require(segment < batch.advantage.size(), ExitCode::kData,
              "the batch has {} advantages and more sequences: each needs one", batch.advantage.size());
      gather(logp, batch, live, batch.advantage[segment]);
      SequenceRecord record = apply(batch, live);
      if (!live.empty()) {
        const double c = config_.aggregation.coefficient(counts, int64_t(live.size()));
        double sum = 0;
        for (size_t t = 0; t < live.size(); ++t) {
          sum += value_[t];
          dlogp[int64_t(live[t])] = W(c * grad_[t]);
        }
        loss += c * sum;
      }
      this->records_.push_back(record);
    });
    return loss;
  }

 private:
  void check(const Batch& batch) const {
    const size_t n = size_t(batch.num_tokens());
    if (inputs_.old)
      require_array(batch.logp_old, n, "logp_old",
                    "it is the behaviour policy here (behaviour: old) or the numerator of truncated weights");
    if (inputs_.rollout)
      require_array(
          batch.logp_rollout, n, "logp_rollout",
          "it is the behaviour policy here (behaviour: rollout) or the denominator of truncated weights");
    if (inputs_.reference) require_array(batch.logp_reference, n, "logp_ref", "kl_coef is above 0");
  }

  const std::vector<double>& behaviour(const Batch& batch) const {
    return config_.behaviour == Behaviour::kOld ? batch.logp_old : batch.logp_rollout;
  }

  void gather(device::View<const W, 1> logp, const Batch& batch, const std::vector<size_t>& live,
              double advantage) {
    advantage_ = advantage;
    for (std::vector<double>* v : {&logp_, &ratio_, &slope_, &mismatch_}) v->clear();
    raw_sum_ = ratio_sum_ = 0;
    for (size_t i : live) {
      logp_.push_back(double(logp[int64_t(i)]));
      if (rule_->uses_behaviour()) {
        const double ratio = logp_.back() - behaviour(batch)[i];
        ratio_.push_back(clamped(ratio));
        slope_.push_back(ratio_.back() == ratio ? 1 : 0);
        raw_sum_ += ratio;
        ratio_sum_ += ratio_.back();
      }
      if (inputs_.old && inputs_.rollout)
        mismatch_.push_back(clamped(batch.logp_old[i] - batch.logp_rollout[i]));
    }
    value_.resize(live.size());
    grad_.resize(live.size());
  }

  // Fills value_ and grad_ of the gathered tokens.
  SequenceRecord apply(const Batch& batch, const std::vector<size_t>& live) {
    SequenceRecord record{
        .tokens = double(live.size()), .advantage = advantage_, .log_ratio = raw_sum_, .phi = 1};
    if (live.empty()) return record;  // W of no tokens is 1
    record.log_tis = rule_->apply({advantage_, logp_, ratio_, slope_, mismatch_}, value_, grad_);
    record.log_w = clamped(ratio_sum_ + record.log_tis);
    record.phi = 0;
    for (size_t t = 0; t < live.size(); ++t) {
      record.phi += grad_[t] / record.tokens;
      grad_[t] *= -advantage_;
      if (config_.tis_multiplier_cap > 0) {
        const double omega = std::min(std::exp(mismatch_[t]), config_.tis_multiplier_cap);
        value_[t] *= omega;
        grad_[t] *= omega;
      }
      if (config_.kl_coef > 0) add_penalty(batch.logp_reference[live[t]], t);
    }
    return record;
  }

  // verl clamps the log-ratio to +-20 and k3 to +-10; beyond, the penalty is flat.
  void add_penalty(double reference, size_t t) {
    constexpr double kMost = 10;
    const double d = reference - logp_[t], x = clamped(d), k3 = std::expm1(x) - x;
    value_[t] += config_.kl_coef * std::min(k3, kMost);
    if (x == d && k3 < kMost) grad_[t] -= config_.kl_coef * std::expm1(x);
  }

  PolicyConfig config_;
  std::unique_ptr<PolicyRule> rule_;
  ObjectiveInputs inputs_;
  // Of the sequence at hand:
  double advantage_ = 0, raw_sum_ = 0, ratio_sum_ = 0;
  std::vector<double> logp_, ratio_, slope_, mismatch_, value_, grad_;
};

}  // namespace

PolicyConfig read_policy(base::Section& section, const PolicyDefaults& defaults) {
  PolicyConfig config;
  config.aggregation = read_aggregation(section, defaults.aggregation);
  config.advantage = read_advantage(section);
  const std::string fallback = defaults.behaviour == Behaviour::kOld ? "old" : "rollout";
  const bool old = section.choice("behaviour", fallback, {"old", "rollout"}) == "old";
  config.behaviour = old ? Behaviour::kOld : Behaviour::kRollout;
  return config;
}

void read_multiplier(base::Section& section, PolicyConfig& config) {
  if (!section.has("tis_multiplier_cap")) return;
  config.tis_multiplier_cap = section.number("tis_multiplier_cap", 0, {.above = 0});
  if (config.behaviour == Behaviour::kRollout) {
    section.reject(
        "tis_multiplier_cap",
        "with behaviour: rollout the ratio holds the mismatch of the engines already, and a weight outside "
        "would count it twice; use behaviour: old, or leave it out");
  }
}

template <class T>
std::unique_ptr<Objective<T>> make_policy(const PolicyConfig& config, std::unique_ptr<PolicyRule> rule) {
  return std::make_unique<Policy<T>>(config, std::move(rule));
}
template std::unique_ptr<Objective<float>> make_policy(const PolicyConfig&, std::unique_ptr<PolicyRule>);
template std::unique_ptr<Objective<double>> make_policy(const PolicyConfig&, std::unique_ptr<PolicyRule>);

}  // namespace cadre::optim
