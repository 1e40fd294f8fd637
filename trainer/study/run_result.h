// What came of one run, as its metrics.jsonl says.
#pragma once

#include <cmath>

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

// What metrics.jsonl of a finished run says; Error(kData) when it says nothing of `metric`.
RunResult read_result(const std::filesystem::path& run_folder, const std::string& metric);
// The mean over training of the weights that batches were drawn with, by domain, over all lines of metrics.jsonl.
std::map<std::string, double> average_weights(const std::filesystem::path& run_folder);

}  // namespace cadre::study
