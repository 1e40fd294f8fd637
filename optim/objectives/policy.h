// The frame of every policy-gradient objective: it walks a batch by sequence, hands the live tokens to a rule,
// and does what all rules share: log-ratios, aggregation, truncated weights outside of the ratio, the k3
// penalty. Everything is in double and in log space; masked entries are never read.
#pragma once

#include <memory>
#include <span>

#include "optim/aggregation.h"
#include "optim/objective.h"

namespace cadre::optim {

// Log-ratios are clamped to this on both sides, as verl and its recipes do.
inline constexpr double kLogRatioClamp = 20;

enum class Behaviour { kOld, kRollout };  // the denominator of the ratio: logp_old or logp_rollout

struct PolicyConfig {
  Aggregation aggregation;
  AdvantageKind advantage = AdvantageKind::kMeanStd;
  Behaviour behaviour = Behaviour::kOld;
  // Each token's loss times min(pi_old / pi_rollout, cap), a constant; 0: off.
  double tis_multiplier_cap = 0;
  double kl_coef = 0;  // of k3 = exp(ref - new) - (ref - new) - 1 per token (Schulman's estimator); 0: off
};
struct PolicyDefaults {
  AggregationKind aggregation = AggregationKind::kTokenMean;
  Behaviour behaviour = Behaviour::kOld;
};
// Keys `aggregation`, `norm_length`, `advantage`, `behaviour`.
PolicyConfig read_policy(base::Section& section, const PolicyDefaults& defaults = {});
// Key `tis_multiplier_cap`; refuses it where the ratio holds the engine's mismatch already.
void read_multiplier(base::Section& section, PolicyConfig& config);

// The trained tokens of one sequence, at least one.
struct LiveSequence {
  double advantage = 0;
  std::span<const double> logp;          // under the policy that is trained
  std::span<const double> log_ratio;     // logp - behaviour, clamped; empty when the rule does not ask
  std::span<const double> slope;         // d log_ratio / d logp: 0 where clamped, else 1
  std::span<const double> log_mismatch;  // logp_old - logp_rollout, clamped; empty when the rule does not ask
};

class PolicyRule {
 public:
  virtual ~PolicyRule() = default;
  virtual bool uses_behaviour() const { return true; }
  virtual bool uses_mismatch() const { return false; }
  virtual NamedValues settings() const { return {}; }  // of Objective::settings
  // Writes each token's loss, and the weight w of its derivative -advantage * w. Returns what the rule adds to
  // log W beside the log-ratios.
  virtual double apply(const LiveSequence& sequence, std::span<double> value,
                       std::span<double> weight) const = 0;
};

template <class T>
std::unique_ptr<Objective<T>> make_policy(const PolicyConfig& config, std::unique_ptr<PolicyRule> rule);

}  // namespace cadre::optim
