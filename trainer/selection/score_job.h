// `cadre score`: scores of a split's documents into scores/<name>/ beside the shards, shard by shard. All ranks share the
// documents of each shard; a shard that is done stays done, so that the same command goes on where it was stopped.
#pragma once

#include <functional>
#include <string>

#include "trainer/selection/score_kind.h"

namespace cadre::trainer {

struct ScoreJob {
  std::string checkpoint;  // a checkpoint or run folder
  std::string manifest;    // empty: the run's data.manifest
  std::string split = "train";
  std::string name;  // empty: the kind's
  ScoreOptions options;
};

struct ScoreSummary {
  std::string name, model;
  std::vector<std::string> columns;
  int64_t shards = 0, skipped = 0;                   // written now, and found whole
  int64_t documents = 0;                             // of the shards written now
  std::vector<double> mean, deviation, least, most;  // by column, over those documents
};

// Collective over the world; the same summary on every rank. `progress` gets a line a shard, on rank 0. Throws
// Error(kUsage) when files of this name were made by another model or otherwise.
ScoreSummary score_documents(const ScoreJob& job, comm::World& world,
                             const std::function<void(const std::string&)>& progress);

}  // namespace cadre::trainer
