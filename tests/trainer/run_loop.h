// The whole loop of a tiny run on threads, and what it writes.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/trainer/run_fixture.h"
#include "trainer/run/loop.h"

namespace cadre::trainer::testing {

// Returns rank 0's exit code.
inline ExitCode run_loop(int ranks, const std::filesystem::path& out, std::vector<std::string> overrides) {
  static const Dataset dataset = tiny_dataset();
  overrides.push_back("out=" + out.string());
  ExitCode code{};
  comm::run_threads(ranks, [&](comm::World& world) {
    const ExitCode own = train(tiny_run(overrides), dataset, world, {.measure_peak = false});
    if (world.rank() == 0) code = own;
  });
  return code;
}

// Lines of its metrics.jsonl in which `key` has this value.
inline std::vector<nlohmann::json> lines(const std::filesystem::path& out, const std::string& key,
                                         const std::string& value) {
  std::vector<nlohmann::json> found;
  std::ifstream file(out / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto parsed = nlohmann::json::parse(line);
    if (parsed.value(key, "") == value) found.push_back(parsed);
  }
  return found;
}

}  // namespace cadre::trainer::testing
