// Linear datamodelling score (Park et al. 2023, arXiv 2303.14186): models are trained again on random halves of the
// text, and the summed influence of what a half holds is ranked against how low its models' loss came to be, for each
// target. The unit of the text is a block of documents of one domain. Seeds are averaged; what is left of their noise
// bounds what any estimator can reach (study::noise_ceiling). Leave-one-out of single units uses the same runs' form.
#pragma once

#include <vector>

#include "trainer/audit/journal.h"
#include "trainer/audit/lds_score.h"
#include "trainer/audit/retrain.h"
#include "trainer/run/train_state.h"

namespace cadre::audit {

struct LdsConfig {
  int64_t blocks = 8;  // units of each domain
  int64_t subsets = 50;
  std::vector<int64_t> seeds = {1, 2, 3};
  int64_t leave_out = 0;  // units that are left out one at a time; 0: none
  UnitInfluenceConfig influence;
  study::Overrides set;  // for the models that are trained again, beside the audit's
};
LdsConfig read_lds(base::Section section);

bool measure_lds(const LdsConfig& config, trainer::TrainState& state, const AuditContext& context,
                 Journal& journal, LdsResult& result);

}  // namespace cadre::audit
