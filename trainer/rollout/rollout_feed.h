// Batches of sampled sequences for the training step: prompts from the run's data feed (so mixers and curricula order
// them), samples with the present weights, rewards, advantages relative to the group, N mini-batches. All ranks hold all
// rollouts, so that a checkpoint of any number of ranks goes on with any other.
#pragma once

#include <deque>

#include "data/feed.h"
#include "optim/objective.h"
#include "trainer/rollout/batches.h"
#include "trainer/rollout/rollout_source.h"

namespace cadre::trainer {

struct RolloutFeedConfig {
  RolloutConfig rollout;
  RolloutBatchShape shape;
  optim::ObjectiveInputs inputs;
  int64_t global_batch = 0;  // samples an update
  uint64_t seed = 1;

  int64_t groups_per_batch() const { return global_batch / rollout.group; }  // an update
  int64_t prompts_per_round() const { return groups_per_batch() * rollout.mini_batches; }
};

class RolloutFeed final : public RolloutSource {
 public:
  // Everything is borrowed. `prompts` plans prompts_per_round() documents of `train` at a time.
  RolloutFeed(const RolloutFeedConfig& config, const SamplerContext& context, data::DataFeed& prompts,
              const data::Corpus& train);

  data::LoadedBatch next(const Progress& progress) override;  // samples when no mini-batch is left
  void check_first_update(double log_w_max_abs) override;
  std::vector<RewardScore> evaluate(const data::Corpus& valid, const Progress& progress) override {
    return evaluate_rewards(sampler_, valid, progress.step);
  }
  std::string save() override;
  void load(const std::string& bytes) override;

 private:
  using Groups = std::vector<std::vector<Rollout>>;
  void sample_round(const Progress& progress);
  Groups sample_groups(const Progress& progress);
  void score_old(std::vector<Rollout>& batch);
  double largest_mismatch(const std::vector<Rollout>& batch, uint32_t version) const;

  RolloutFeedConfig config_;
  SamplerContext context_;
  data::DataFeed& prompts_;
  const data::Corpus& train_;
  Sampler sampler_;
  std::deque<std::vector<Rollout>> ready_;  // mini-batches
  Groups leftovers_;                        // groups beyond what a round needed; they go first into the next
  std::vector<double> weights_;             // the mixer's, of the last plan; NaN before one
  uint64_t next_group_ = 0;
  bool first_ =
      false;  // the batch given out last is the first after sampling, all of it with the present weights
  double round_first_log_w_ = 0;  // of the trainer's recomputation; 0 without
  nlohmann::json round_metrics_;  // for the first batch of the round
};

}  // namespace cadre::trainer
