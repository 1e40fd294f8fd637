// `cadre study`: the runs of a study file, one after the other in this process group, and shared with all other process
// groups that work in the same folder (run_files.h). Each run's folder holds result.json when the run is over; a study
// that was stopped, or killed, goes on with the first run without one, and that run with its newest checkpoint. A run
// that fails is part of the results, and the others go on.
#pragma once

#include <memory>
#include <optional>

#include "trainer/run/loop.h"
#include "trainer/study/run_result.h"

namespace cadre::study {

struct StudyOptions {
  trainer::TrainOptions train;
  bool retry_failed = false;                  // forget the failures of earlier processes
  const trainer::Dataset* dataset = nullptr;  // of all runs, instead of opening their manifests
};

// The data of the runs of this process, opened once for as long as it stays the same.
class DatasetCache {
 public:
  const trainer::Dataset& open(const trainer::RunConfig& config);

 private:
  std::string key_;
  std::optional<trainer::Dataset> dataset_;
};

// Runs what is left to do and nobody else makes, waits for what others make, and writes the report. Returns kOk,
// kStopped when a signal asked to stop, or the code of the first run that failed. Collective over the world.
ExitCode run_study(const StudyConfig& study, comm::World& world, const StudyOptions& options);
// The results so far, in the order of the runs; runs that are not over are left out. For one process.
std::vector<RunResult> collect_results(const StudyConfig& study);

}  // namespace cadre::study
