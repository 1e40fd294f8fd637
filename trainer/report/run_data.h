// What a run folder says about itself: the lines of metrics.jsonl as columns, the configuration, the environment.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace cadre::report {

struct Point {
  double x, y;
};
using Series = std::vector<Point>;  // by rising x

struct Event {
  uint64_t step = 0;
  std::string name, message;
};
struct LoadSample {  // one line with expert_load
  uint64_t step = 0;
  std::map<int, std::vector<double>> layers;  // tokens by expert
};

struct Influence {  // of one training domain on one target, by probe
  Series value;
  std::vector<double> error;
};

struct RunData {
  std::string name;                                                        // the folder's
  std::map<std::string, Series> train, eval;                               // "loss"; by step
  std::map<std::string, std::map<std::string, Series>> train_by, eval_by;  // "domain_loss" -> domain
  std::vector<LoadSample> loads;
  std::map<std::string, std::map<std::string, Influence>> influence;  // target -> domain
  // Tokens by expert, layer and domain of the newest line that has them.
  std::map<int, std::map<std::string, std::vector<double>>> domain_experts;
  std::vector<Event> events;
  std::string config;          // config.resolved.yaml, empty when missing
  nlohmann::json environment;  // environment.json, null when missing
  uint64_t step = 0;           // of the last line
};

// Throws Error(kData) when there is no metrics.jsonl. Lines that cannot be read (the last one of a running
// run may be cut) are left out.
RunData read_run_folder(const std::filesystem::path& folder);

}  // namespace cadre::report
