// The data side of a training step as one object: mixer -> planner -> loader, and its part of the checkpoint.
// Planning is cheap and happens in next() on the caller's thread, `prefetch` steps ahead; reading happens on
// the loader's. Weights that the mixer gives after step t act from step t + 1 + prefetch, with or without a
// restart in between: the checkpoint holds the planner's state after the last consumed batch and the weights
// of the batches that were planned but not consumed.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "data/curriculum.h"
#include "data/loader.h"
#include "data/mixer.h"
#include "data/planner.h"

namespace cadre::data {

class DataFeed {
 public:
  // All borrowed; they outlive the feed.
  DataFeed(const PlannerConfig& planner, const LoaderConfig& loader, const Corpus& corpus, Mixer& mixer,
           Curriculum& curriculum);
  ~DataFeed();
  LoadedBatch next(const Progress& progress);
  double last_wait_ms() const;
  // Planner, mixer and curriculum; after the step that consumed the last next() and after mixer.observe().
  nlohmann::json save() const;
  void load(const nlohmann::json& state);  // Error(kCheckpoint) when it does not fit

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cadre::data
