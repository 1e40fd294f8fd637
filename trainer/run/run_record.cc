#include "trainer/run/run_record.h"

#include <fstream>

#include "parallel/base/files.h"
#include "parallel/base/log.h"

namespace cadre::trainer {
namespace {

std::string processor_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string binary_hash() {
  try {
    return base::sha256_file("/proc/self/exe");
  } catch (const Error&) {
    return "unknown";
  }
}

}  // namespace

nlohmann::json run_record(const TrainState& state) {
  static const std::string processor = processor_model(),
                           binary = binary_hash();  // once a process: hashing takes a while
  return {{"ranks", state.model.mesh.data().size()},
          {"ep", state.config().mesh.ep},
          {"cp", state.config().mesh.cp},
          {"zero", state.config().mesh.zero},
          {"micro_batch", state.config().train.micro_batch},
          {"threads", state.model.host.num_threads()},
          {"processor", processor},
          {"binary_sha256", binary}};
}

void warn_of_other_bits(const nlohmann::json& now, const nlohmann::json& then) {
  std::vector<std::string> changed;
  for (const auto& [key, value] : now.items()) {
    if (key == "cp" && !then.contains(key) && value == 1) continue;  // checkpoints older than the key
    if (then.value(key, nlohmann::json()) != value) {
      changed.push_back(
          key == "binary_sha256"
              ? "binary"
              : fmt::format("{} {} -> {}", key, then.value(key, nlohmann::json()).dump(), value.dump()));
    }
  }
  if (!changed.empty()) {
    spdlog::warn("resuming with another {}: the run goes on, but not with the bits that it would have had",
                 fmt::join(changed, ", "));
  }
}

}  // namespace cadre::trainer
