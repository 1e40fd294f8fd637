#include "trainer/run/environment.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <thread>

#include "trainer/run/run_record.h"

namespace cadre::trainer {
namespace {

std::string system_name() {
  std::ifstream file("/etc/os-release");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("PRETTY_NAME=")) continue;
    line = line.substr(line.find('=') + 1);
    std::erase(line, '"');
    return line;
  }
  return "unknown";
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

}  // namespace

nlohmann::ordered_json environment(const TrainState& state, const std::string& commit) {
  utsname kernel{};
  uname(&kernel);
  const double bytes = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGE_SIZE));
  nlohmann::ordered_json all = {{"commit", commit.empty() ? "unknown" : commit},
                                {"started", utc_now()},
                                {"from_step", state.progress.step},
                                {"host", kernel.nodename},
                                {"system", system_name()},
                                {"kernel", kernel.release},
                                {"cores", std::thread::hardware_concurrency()},
                                {"memory_gib", fmt::format("{:.1f}", bytes / (1 << 30))},
                                {"compiler", __VERSION__}};
  const nlohmann::json record = run_record(state);
  for (const auto& [key, value] : record.items()) all[key] = value;
  return all;
}

}  // namespace cadre::trainer
