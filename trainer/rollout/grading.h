// From rewards to advantages, and what a batch of samples says of itself.
#pragma once

#include <nlohmann/json.hpp>

#include "optim/advantage.h"
#include "parallel/base/batch.h"
#include "trainer/rollout/sampler.h"

namespace cadre::trainer {

// The reward after overlong shaping.
double shaped_reward(const Rollout& rollout, const RolloutConfig& config);
bool equal_rewards(const std::vector<Rollout>& group, const RolloutConfig& config);
// Advantages of a whole group, and which of its members are masked.
void set_advantages(std::vector<Rollout>& group, const RolloutConfig& config, optim::AdvantageKind kind);

// Metrics of an update's samples (docs/metrics.md); ages are counted in updates.
nlohmann::json batch_metrics(const std::vector<Rollout>& batch, const data::Corpus& prompts, uint64_t step);

// Throws Error(kNumeric) that explains why W should have been 1.
[[noreturn]] void refuse_first_update(double log_w, double bound);

// Held-out prompts, one likeliest response each. Collective over the sampler's ranks.
struct RewardScore {
  std::string domain;
  int64_t prompts = 0;
  double reward = 0, length = 0;  // means
};
std::vector<RewardScore> evaluate_rewards(Sampler& sampler, const data::Corpus& valid, uint64_t step);

}  // namespace cadre::trainer
