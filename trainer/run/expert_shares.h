// What stands in the way of sharing out experts by their width (moe.shares).
#pragma once

#include "trainer/run/run_config.h"

namespace cadre::trainer {

// Where something does, `auto` becomes `experts`, and `width` throws Error(kUsage) with the reason.
void settle_expert_shares(RunConfig& config);

}  // namespace cadre::trainer
