// The folder of a run's checkpoints: names, and which one to use. Checkpoints are found by looking, never
// through a pointer file that could be stale.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace cadre::trainer {

std::string checkpoint_name(uint64_t step);  // "step-00000200"
// Steps of the complete (renamed) checkpoints, rising; empty when the folder does not exist.
std::vector<uint64_t> list_checkpoints(const std::filesystem::path& folder);
// The newest whole one; each damaged one is named in a warning and passed over. Nothing when there is none at
// all; when some exist but all are damaged it throws Error(kCheckpoint): never silently start over.
// Collective; all ranks agree.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& folder,
                                                       comm::Communicator& data);
// For one process: `path` is a checkpoint, or a run folder whose newest whole checkpoint is taken. Throws
// Error(kCheckpoint).
std::filesystem::path find_checkpoint(const std::filesystem::path& path);
// The same for several: rank 0 looks, all share the checking, and all get one answer. Collective.
std::filesystem::path find_checkpoint(const std::filesystem::path& path, comm::Communicator& ranks);
// As the first, of what only index.json is read: the newest whose index is whole, whatever its files hold.
std::filesystem::path find_index(const std::filesystem::path& path);

// Removes what an interrupted save left behind.
void remove_temporaries(const std::filesystem::path& folder);
// Removes all but the newest `keep`.
void remove_old_checkpoints(const std::filesystem::path& folder, int keep);

}  // namespace cadre::trainer
