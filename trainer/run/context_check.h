// What a run that shares sequences between ranks (`mesh.cp` above 1) cannot do.
#pragma once

#include "trainer/run/run_config.h"

namespace cadre::trainer {

// Throws Error(kUsage) with the key that does not go with mesh.cp. Nothing to say where that is 1.
void check_context(const RunConfig& config);

}  // namespace cadre::trainer
