// What a run of a null control did, read from its metrics, and how all of them are told.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace cadre::audit {

struct ControlRun {
  std::string control, domain;  // the domain that was tampered with or aimed at
  int64_t seed = 0;
  bool passed = false;
  std::map<std::string, double> prior, weights;  // first of the run; mean over its second half
  double measure = 0;                            // what the bound is about
  // Root mean square of domains' deviations from their mean, over the standard errors of these: 1 where domains do not
  // differ (permuted) and error bars are honest. NaN without probes.
  double deviation = 0;
};

// Sets prior, weights and deviation from the metrics.jsonl of a run's folder.
void read_run(const std::filesystem::path& folder, ControlRun& run);
// ControlRun::deviation from each probe's influence by domain and its errors. Pure.
double relative_deviation(const std::vector<std::pair<std::vector<double>, std::vector<double>>>& probes);

nlohmann::ordered_json controls_json(const std::vector<ControlRun>& runs);
std::string controls_html(const std::vector<ControlRun>& runs);
// A row for each run, a dot for each domain: its weight over its prior; the stroke is the domain at issue.
std::string controls_figure(const std::vector<ControlRun>& runs);
std::string controls_markdown(const std::vector<ControlRun>& runs);

}  // namespace cadre::audit
