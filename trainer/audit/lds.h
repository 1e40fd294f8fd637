// Linear datamodelling score (Park et al. 2023, arXiv 2303.14186): models are trained again on random halves of the
// text, and the summed influence of what a half holds is ranked against how low its models' loss came to be, for each
// target. The unit of the text is a block of documents of one domain. Seeds are averaged; what is left of their noise
// bounds what any estimator can reach (study::noise_ceiling). Leave-one-out of single units uses the same runs' form.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/audit/journal.h"
#include "trainer/audit/retrain.h"
#include "trainer/run/train_state.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {

struct LdsConfig {
  int64_t blocks = 8;  // units of each domain
  int64_t subsets = 50;
  std::vector<int64_t> seeds = {1, 2, 3};
  int64_t leave_out = 0;         // units that are left out one at a time; 0: none
  int64_t unit_passages = 64;    // passages of data.seq_len tokens that a unit's influence is measured on
  bool ekfac = true;             // dense models only
  int64_t ekfac_passages = 200;  // that its factors are estimated on
  double ekfac_damping = 0.1;    // times the mean eigenvalue of a layer
  study::Overrides set;          // for the models that are trained again, beside the audit's
};
LdsConfig read_lds(base::Section section);

// By method ("optimizer", "gradient", "ekfac"), then query (a target), then unit: influence per token.
using UnitInfluence = std::map<std::string, std::vector<std::vector<double>>>;

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
bool measure_lds(const LdsConfig& config, trainer::TrainState& state, const AuditContext& context,
                 Journal& journal, LdsResult& result);

// The score from its parts, pure: outcomes[query][subset][seed] is minus the loss, members[subset] its units.
std::vector<LdsScore> score_lds(const UnitInfluence& influence,
                                const std::vector<std::vector<size_t>>& members,
                                const std::vector<std::vector<std::vector<double>>>& outcomes);
// Half of `units` different units for each subset, a function of the subset's number.
std::vector<size_t> draw_half(size_t units, uint64_t subset);

nlohmann::ordered_json lds_json(const LdsResult& result);
std::string lds_html(const LdsResult& result);
std::string lds_figure(
    const LdsResult& result);  // a row for each method and the ceiling, a dot for each target
std::string lds_markdown(const LdsResult& result);

}  // namespace cadre::audit
