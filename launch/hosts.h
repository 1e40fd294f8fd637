// Host files for `cadre launch --hosts`, in Open MPI's format: a line "name" or "name slots=N", # for comments.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace cadre::launch {

struct Host {
  std::string name;
  int slots = 1;
  bool operator==(const Host&) const = default;
};
// Throws Error(kUsage) with the line for anything else; names may hold letters, digits, dot, dash and underscore.
std::vector<Host> read_hosts(const std::filesystem::path& file);
int total_slots(const std::vector<Host>& hosts);

// Those that answer `ssh NAME true` in time, all asked at once; this host itself is not asked.
std::vector<Host> reachable(const std::vector<Host>& hosts,
                            std::chrono::milliseconds patience = std::chrono::seconds(15));

// --elastic MIN:MAX
struct Elastic {
  int min = 0, max = 0;
};
Elastic read_elastic(const std::string& text);  // throws Error(kUsage)
// The largest number of ranks up to max that fits into the slots and is a multiple of `multiple`; 0 when it would be less
// than min.
int elastic_ranks(const Elastic& elastic, int slots, int multiple);

}  // namespace cadre::launch
