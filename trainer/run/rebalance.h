// Experts move between the ranks of an expert group so that these get equal loads. A move is a renumbering: two experts
// exchange their weights and optimizer states, and with them their rows of the router and of the balancing state. The
// model is the same function, up to the order in which it adds, and everything is ordinary state: checkpoints know of no
// placement. Looks at the loads come after steps 5, 10, 15, 20, 30, 40, 60, ...: a quarter of the steps so
// far apart, or a little more, until that is moe.rebalance.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace cadre::trainer {

struct RunConfig;
class TrainState;

inline constexpr uint64_t kFirstLook = 5;

// Steps between looks as moe.rebalance says; 0 without. `auto` is 100 where experts can be renumbered. Throws
// Error(kUsage) when a number was asked for and they cannot.
int64_t rebalance_period(const RunConfig& config);
// Whether there is a look after this many steps.
bool rebalance_due(uint64_t step, int64_t period);

class Rebalance {
 public:
  // Nothing moves where ranks share out the widths of experts.
  explicit Rebalance(const RunConfig& config, bool widths = false);
  int64_t period() const { return period_; }
  // After a step, with its loads by MoE layer, summed over data ranks. Collective. Says what was
  // moved, a line a layer; the same on all ranks.
  std::vector<std::string> after_step(TrainState& state, const std::vector<std::vector<double>>& loads);
  nlohmann::json save() const;
  void load(const nlohmann::json& saved);  // null: nothing was counted

 private:
  const int64_t period_;
  size_t layers_ = 0, experts_ = 0;         // MoE layers
  std::vector<std::vector<double>> loads_;  // since the last look, by MoE layer; empty: no step yet
};

}  // namespace cadre::trainer
