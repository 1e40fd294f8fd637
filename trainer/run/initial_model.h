// Runs that start from a checkpoint (`init`): an imported model, or another run's.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/run/checkpoint_index.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

// The run file with its overrides. With `init`, keys of `model` and `moe` that it leaves out are the
// checkpoint's.
RunConfig load_run(const std::filesystem::path& file, const std::vector<std::string>& overrides);
base::Section with_initial_model(base::Section root);

// Whether the checkpoint's tokenizer and the data's give the same ids; true when one of them is not there.
bool same_tokenizer(const CheckpointIndex& index, const std::filesystem::path& folder,
                    const std::filesystem::path& tokenizer);

}  // namespace cadre::trainer
