// Batches from ranks that sample all the while. Prompts are handed out in order and batches are made of them in the same
// order, so that a batch holds the same groups whatever the speeds, and no sample is lost or used twice. A group is handed
// out only when at most `staleness` updates lie between its place and the present (Fu et al. 2025, AReaL, eq. 3): that
// bounds both the age of any token when it is trained and the number of groups that wait.
#pragma once

#include <map>

#include "data/feed.h"
#include "trainer/rollout/link.h"
#include "trainer/rollout/rollout_feed.h"

namespace cadre::trainer {

class AsyncFeed final : public RolloutSource {
 public:
  // Everything is borrowed. all: trainers first, then samplers.
  AsyncFeed(const RolloutFeedConfig& config, const SamplerContext& context, data::DataFeed& prompts,
            const data::Corpus& train, comm::Communicator& all, const ModelValues& values);

  data::LoadedBatch next(const Progress& progress) override;
  void check_first_update(double log_w_max_abs) override;
  std::vector<RewardScore> evaluate(const data::Corpus& valid, const Progress& progress) override {
    return evaluate_rewards(sampler_, valid, progress.step);
  }
  std::string save() override;
  void load(const std::string& bytes) override;
  void close() override;

 private:
  void hand_out(const Progress& progress, Orders& orders);
  // Returns what samplers have under way, when orders.collect.
  std::vector<Rollout> trade(Orders orders);
  bool batch_is_there() const;

  RolloutFeedConfig config_;
  SamplerContext context_;
  data::DataFeed& prompts_;
  const data::Corpus& train_;
  comm::Communicator& all_;
  ModelValues values_;
  Bell bell_;
  Sampler sampler_;                                    // for evaluation
  std::map<uint64_t, std::vector<Rollout>> received_;  // by group
  std::vector<Rollout> again_;                         // to hand out again, after a restart
  uint64_t next_group_ = 0, next_batch_ = 0;           // to be handed out; the first of the next batch
  std::vector<double> weights_;                        // the mixer's, of the last plan
  bool begun_ = false;                                 // samplers have weights
  bool first_ = false;  // all of the last batch was drawn with the present weights
};

}  // namespace cadre::trainer
