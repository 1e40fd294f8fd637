// Logging: spdlog with the rank in front; levels by meaning (info: what a user wants to see; warn: something was done
// about a problem; error: the run stops). Secrets and the environment are never logged.
#pragma once

#include <spdlog/spdlog.h>

#include <filesystem>

namespace cadre::base {

// Console on rank 0 (warnings and errors from every rank); with a file, everything of this rank goes there too.
void init_log(int rank, const std::filesystem::path& file = {});

}  // namespace cadre::base
