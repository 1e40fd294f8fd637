// What the one-step oracle found: groups, their summary for each size, learning rate and form of v, tables and plots.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace cadre::audit {

// What one group was predicted to do and did, in nats of target loss; > 0: the loss falls.
struct OracleGroup {
  double adam = 0, unclipped = 0,
         gradient = 0;               // predicted by D', by D, and by D' with D = G; per unit of lr
  std::vector<double> after;         // predicted with G taken after the background's step; by lr
  std::vector<double> real, frozen;  // by lr; frozen: the step with the old v
  double identity_error = 0;         // scores of the influence engine against <D', g>, relative
};
struct OracleCell {  // one size, one lr, v real or frozen
  int64_t size = 0, groups = 0;
  double lr = 0;
  bool frozen = false;
  // Of the prediction against what happened. slope: real = slope * lr * predicted, least squares.
  double spearman = 0, low = 0, high = 0, pearson = 0, slope = 0;
  double unclipped = 0, gradient = 0, after = 0;  // Spearman of the other forms
};
struct OracleResult {
  std::vector<OracleCell> cells;
  std::map<int64_t, std::vector<OracleGroup>> groups;  // by size
  double run_lr = 0, clip_scale = 1, identity_error = 0;
  uint64_t step = 0;
  int64_t passage = 0, background = 0;  // of the configuration
};

// Of groups of one size at lr number `lr`, which is `factor` times the run's.
OracleCell summarise_cell(const std::vector<OracleGroup>& groups, size_t lr, double factor, double run_lr,
                          bool frozen);

nlohmann::ordered_json oracle_json(const OracleResult& result);
// Tables and plots for the report's body.
std::string oracle_html(const OracleResult& result);
std::string oracle_markdown(const OracleResult& result);
std::vector<std::pair<std::string, std::string>> oracle_figures(const OracleResult& result);  // name, figure

}  // namespace cadre::audit
