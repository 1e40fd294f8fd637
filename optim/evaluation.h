// One objective on a batch written by hand or by another program (`cadre objective`), in double precision. Input:
//   {"sequences": [{"group": 0, "reward": 1.0, "advantage": 0.5, "mask": [1, ..], "logp": [..], "logp_old": [..],
//                   "logp_rollout": [..], "logp_ref": [..]}, ..]}
//   {"pairs": [{"chosen": {"mask": [..], "logp": [..], "logp_ref": [..]}, "rejected": {..}}, ..]}
// Arrays are by token and of one length within a sequence; which ones are needed depends on the objective. Masked
// entries may hold anything, also null, NaN and Infinity. `advantage` is read with `advantage: given` only, and
// there `reward` stands in when it is missing. A group defaults to the sequence's own number (a group of one).
// Output: {"loss", "grad", "advantage", "log_w", "phi", "metrics"}, by sequence as in the input; for pairs "grad",
// "log_w" (log pi / reference) and "advantage" (beta log_w) hold {"chosen": [..], "rejected": [..]} and phi is null.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "parallel/base/config.h"

namespace cadre::optim {

// `objective` is the run file's section; `source` names the input in messages. Throws Error(kUsage) for the
// section, Error(kData) for the input.
nlohmann::ordered_json evaluate_objective(base::Section objective, const std::string& input,
                                          const std::string& source);

}  // namespace cadre::optim
