// The linear datamodelling score from its parts, and how it is told.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/audit/lds_influence.h"

namespace cadre::audit {

struct LdsScore {
  std::string method;
  std::vector<double> by_query;
  double mean = 0, low = 0, high = 0;  // over queries; 95% over subsets
};
struct LdsResult {
  std::vector<std::string> queries;
  std::vector<double> ceiling;                  // by query
  std::vector<LdsScore> scores, leave_one_out;  // the latter empty without leave_out
  int64_t subsets = 0, seeds = 0;
};

// Pure: outcomes[query][subset][seed] is minus the loss, members[subset] its units.
std::vector<LdsScore> score_lds(const UnitInfluence& influence,
                                const std::vector<std::vector<size_t>>& members,
                                const std::vector<std::vector<std::vector<double>>>& outcomes);

nlohmann::ordered_json lds_json(const LdsResult& result);
std::string lds_html(const LdsResult& result);
// A row for each method and the ceiling, a dot for each target.
std::string lds_figure(const LdsResult& result);
std::string lds_markdown(const LdsResult& result);

}  // namespace cadre::audit
