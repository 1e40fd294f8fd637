// GPUs of this host, counted without the driver: a launcher that asked it would hold memory of each GPU as long as it lives.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace cadre::launch {

// The entries of CUDA_VISIBLE_DEVICES up to the first that names none, as CUDA reads it; when `visible` is null, the device files
// nvidia0, nvidia1, ... of `dev`.
int count_gpus(const char* visible, const std::filesystem::path& dev = "/dev");
// What an entry of CUDA_VISIBLE_DEVICES calls each of them.
std::vector<std::string> name_gpus(const char* visible, const std::filesystem::path& dev = "/dev");

}  // namespace cadre::launch
