// What the promise of equal bits depends on: layout, threads, processor and binary. Saved with every
// checkpoint.
#pragma once

#include <nlohmann/json.hpp>

#include "trainer/run/train_state.h"

namespace cadre::trainer {

nlohmann::json run_record(const TrainState& state);
// One warning that lists what changed since the checkpoint: from here on the curve continues, but not bit by
// bit.
void warn_of_other_bits(const nlohmann::json& now, const nlohmann::json& then);

}  // namespace cadre::trainer
