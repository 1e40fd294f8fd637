#include "trainer/run/rebalance.h"

#include <algorithm>
#include <utility>

#include "trainer/run/move_experts.h"
#include "trainer/run/run_config.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {
namespace {

constexpr int64_t kDefaultPeriod = 100;

// Why experts of this run have to keep their numbers; null when they need not.
const char* obstacle(const RunConfig& config) {
  if (config.rollout) return "sampled responses come with the numbers of the experts that they used";
  const YAML::Node groups = config.moe->router.IsMap() ? config.moe->router["groups"] : YAML::Node();
  if (groups.IsDefined() && groups.IsScalar() && groups.Scalar() != "1")
    return "the router chooses among groups of experts, which are numbers";
  return nullptr;
}

}  // namespace

int64_t rebalance_period(const RunConfig& config) {
  if (!config.moe || config.mesh.ep == 1) return 0;
  const int64_t asked = config.moe->rebalance;
  if (asked == 0) return 0;
  const char* why = obstacle(config);
  require(asked < 0 || why == nullptr, ExitCode::kUsage,
          "{}: moe.rebalance is {}, but experts cannot be renumbered here: {}; set it to 0", config.source,
          asked, why != nullptr ? why : "");
  return why != nullptr ? 0 : asked > 0 ? asked : kDefaultPeriod;
}

bool rebalance_due(uint64_t step, int64_t period) {
  if (period == 0 || step == 0) return false;
  uint64_t apart = kFirstLook;
  while (4 * apart < step) apart *= 2;
  return step % std::min(apart, uint64_t(period)) == 0;
}

Rebalance::Rebalance(const RunConfig& config, bool widths) : period_(widths ? 0 : rebalance_period(config)) {
  if (!config.moe) return;
  experts_ = size_t(config.moe->num_experts);
  for (int layer = 0; layer < config.model.layers; ++layer) layers_ += config.model.is_moe(layer);
}

std::vector<std::string> Rebalance::after_step(TrainState& state,
                                               const std::vector<std::vector<double>>& loads) {
  // What is measured without other ranks has nothing to exchange with them.
  if (period_ == 0 || state.model.mesh.expert_tensors().imitation()) return {};
  if (loads_.empty()) {
    loads_ = loads;
  } else {
    for (size_t layer = 0; layer < loads.size(); ++layer) {
      for (size_t e = 0; e < loads[layer].size(); ++e) loads_[layer][e] += loads[layer][e];
    }
  }
  if (loads_.empty() || !rebalance_due(state.progress.step, period_)) return {};
  return move_experts(state, std::exchange(loads_, {}));
}

nlohmann::json Rebalance::save() const {
  return loads_;
}

void Rebalance::load(const nlohmann::json& saved) {
  loads_.clear();
  if (period_ == 0 || saved.is_null()) return;
  auto loads = saved.get<std::vector<std::vector<double>>>();
  const bool fits =
      std::all_of(loads.begin(), loads.end(), [&](const auto& l) { return l.size() == experts_; });
  require(loads.empty() || (fits && loads.size() == layers_), ExitCode::kCheckpoint,
          "the checkpoint's expert loads are not of {} layers with {} experts", layers_, experts_);
  loads_ = std::move(loads);
}

}  // namespace cadre::trainer
