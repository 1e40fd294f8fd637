#include "parallel/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include "parallel/base/errors.h"

namespace cadre::base {

void init_log(int rank, const std::filesystem::path& file) {
  auto console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  console->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  std::vector<spdlog::sink_ptr> sinks = {console};
  if (!file.empty()) {
    try {
      sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string()));
    } catch (const spdlog::spdlog_ex& error) {
      fail(ExitCode::kUsage, "cannot open the log {}: {}", file.string(), error.what());
    }
  }
  auto logger = std::make_shared<spdlog::logger>("cadre", sinks.begin(), sinks.end());
  logger->set_pattern(fmt::format("[%H:%M:%S] [rank {}] [%^%l%$] %v", rank));
  logger->flush_on(spdlog::level::info);  // lines are few, and the last ones before a crash matter most
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace cadre::base
