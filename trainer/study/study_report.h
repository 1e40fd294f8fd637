// Results of a study as results.json, results.md, report.html and SVG files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/study/statistics.h"
#include "trainer/study/study.h"

namespace cadre::study {

// All seeds of one cell.
struct CellResult {
  std::string name;
  std::vector<std::string> seeds = {};   // of the values
  std::vector<double> values = {};       // the metric
  std::vector<std::string> failed = {};  // "seed: message"
  Summary summary = {}, worst = {};
  std::map<std::string, Summary> domains = {};
  std::vector<std::pair<double, double>> curve = {};  // mean over seeds at the steps that all of them have
  // Against the first cell of the study: this cell's values minus its, seed by seed.
  Summary difference = {};
  double steps_to_first = 0;  // step where the curve reaches the first cell's last value; NaN: never
};
// Of the runs of the grid; see StudyConfig::higher_is_better.
std::vector<CellResult> by_cell(const std::vector<RunResult>& results, bool higher_is_better);

nlohmann::ordered_json results_json(const StudyConfig& study, const std::vector<RunResult>& results);
std::string results_markdown(const StudyConfig& study, const std::vector<RunResult>& results);
std::string results_page(const StudyConfig& study, const std::vector<RunResult>& results);
// Writes all of them into the study's folder.
void write_report(const StudyConfig& study, const std::vector<RunResult>& results);

}  // namespace cadre::study
