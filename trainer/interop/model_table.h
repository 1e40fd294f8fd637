// The parameters of a run file's model without their memory: names, shapes, and the state beside them.
#pragma once

#include "moe/state.h"
#include "trainer/run/train_state.h"

namespace cadre::interop {

struct ModelTable {
  device::ParamTable params;
  moe::StateDict state;  // as at the start of a run
};
ModelTable model_table(const trainer::RunConfig& run, comm::World& world);

// The run file of a model on its own, with everything else as by default, read as strictly as a user's.
// Throws Error(kUsage) naming `source`.
trainer::RunConfig model_run(const trainer::ModelConfig& model, const std::optional<moe::MoeConfig>& moe,
                             int64_t seq_len, const std::string& source);

}  // namespace cadre::interop
