// Where a run that trains on sampled responses gets its batches from.
#pragma once

#include "data/loader.h"
#include "trainer/rollout/grading.h"

namespace cadre::trainer {

class RolloutSource {
 public:
  virtual ~RolloutSource() = default;
  // The next mini-batch. Collective over data ranks, as are the others.
  virtual data::LoadedBatch next(const Progress& progress) = 0;
  // What the update's objective said of that batch, before the weights change: throws Error(kNumeric) when W is not 1 in
  // the first update after sampling. The same on all ranks.
  virtual void check_first_update(double log_w_max_abs) = 0;
  virtual std::vector<RewardScore> evaluate(const data::Corpus& valid, const Progress& progress) = 0;
  // Rollouts that were sampled, or begun, and not trained on. load throws Error(kCheckpoint).
  virtual std::string save() = 0;
  virtual void load(const std::string& bytes) = 0;
  // The end of the run: ranks that only sample may go.
  virtual void close() {}
};

}  // namespace cadre::trainer
