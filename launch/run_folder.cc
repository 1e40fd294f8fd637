#include "launch/run_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "parallel/base/blackbox.h"
#include "parallel/base/errors.h"
#include "parallel/base/log.h"

namespace cadre::launch {

bool started_by_launcher() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(variable) != nullptr) return true;
  }
  return false;
}

trainer::ProgressStyle progress_style(const std::string& word) {
  const bool terminal =
      word == "auto" ? isatty(STDOUT_FILENO) == 1 && !started_by_launcher() : word == "line";
  return terminal ? trainer::ProgressStyle::kTerminal : trainer::ProgressStyle::kLines;
}

void open_log(const std::filesystem::path& out, const std::string& source, int rank) {
  umask(0077);
  if (rank != 0) return;
  std::error_code code;
  std::filesystem::create_directories(out, code);
  require(!code, ExitCode::kUsage, "{}: cannot create the run folder `out: {}`: {}", source, out.string(),
          code.message());
  base::init_log(rank, out / "log.rank0");
}

void open_box(const std::filesystem::path& out, const comm::World& world) {
  static std::unique_ptr<base::Blackbox> box;
  const std::filesystem::path folder = out / "ranks";
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  try {
    box = std::make_unique<base::Blackbox>(folder / base::box_name(world.rank()), world.rank(), world.size());
  } catch (const Error& error) {
    spdlog::warn("rank {} cannot be watched: {}", world.rank(), error.what());
  }
}

}  // namespace cadre::launch
