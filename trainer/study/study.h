// `cadre study`: the runs of a study file, one after the other in this process group, and shared with all other process
// groups that work in the same folder (run_files.h). Each run's folder holds result.json when the run is over; a study
// that was stopped, or killed, goes on with the first run without one, and that run with its newest checkpoint. A run
// that fails is part of the results, and the others go on.
#pragma once

#include <cmath>
#include <memory>
#include <optional>

#include "trainer/run/loop.h"
#include "trainer/study/study_config.h"

namespace cadre::study {

// Of runs that sample (metric eval_reward), for reports on how long a reward lasts. NaN: nothing of the kind.
struct RewardHistory {
  double best = NAN;
  double collapse_step = NAN;  // the first evaluation below half of the best so far, if none came back above
  double ess = NAN;            // mean of ess_fraction over the last updates of the rounds of sampling
};
struct RunResult {
  std::string name, cell, seed;
  Part part = Part::kGrid;
  std::string error = {};  // empty: it is done
  int code = 0;            // ExitCode of the error
  // The study's metric: the mean over domains with equal weights. Of eval_reward, the mean of the last three.
  double value = 0;
  double worst = 0;                                   // of the worst domain
  std::map<std::string, double> domains = {};         // the metric by domain
  std::vector<std::pair<double, double>> curve = {};  // (step, metric)
  uint64_t steps = 0, tokens = 0;
  RewardHistory reward = {};
};

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

// What metrics.jsonl of a finished run says; Error(kData) when it says nothing of `metric`.
RunResult read_result(const std::filesystem::path& run_folder, const std::string& metric);
// The mean over training of the weights that batches were drawn with, by domain, over all lines of metrics.jsonl.
std::map<std::string, double> average_weights(const std::filesystem::path& run_folder);

// Runs what is left to do and nobody else makes, waits for what others make, and writes the report. Returns kOk,
// kStopped when a signal asked to stop, or the code of the first run that failed. Collective over the world.
ExitCode run_study(const StudyConfig& study, comm::World& world, const StudyOptions& options);
// Makes runs that failed count as not begun. For one process.
void forget_failures(const StudyConfig& study);
// The results so far, in the order of the runs; runs that are not over are left out. For one process.
std::vector<RunResult> collect_results(const StudyConfig& study);

}  // namespace cadre::study
