// The data side of a training step as one object: mixer -> planner -> loader, and its part of the checkpoint. Planning is
// cheap and happens in next() on the caller's thread, `prefetch` steps ahead; reading happens on the loader's. Weights that
// the mixer gives after step t act from step t + 1 + prefetch, with or without a restart in between: the checkpoint holds the
// planner's state after the last consumed batch and the weights of the batches that were planned but not consumed.
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
           const Curriculum& curriculum);
  ~DataFeed();
  LoadedBatch next(const Progress& progress);
  double last_wait_ms() const;
  nlohmann::json save() const;  // after the step that consumed the last next()
  void load(const nlohmann::json& state);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cadre::data
