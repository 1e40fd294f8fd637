#include "launch/run_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>

#include "parallel/base/blackbox.h"
#include "parallel/base/errors.h"
#include "parallel/base/file_lock.h"
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

namespace {

void make_folder(const std::filesystem::path& out, const std::string& source) {
  std::error_code code;
  std::filesystem::create_directories(out, code);
  require(!code, ExitCode::kUsage, "{}: cannot create the run folder `out: {}`: {}", source, out.string(),
          code.message());
}

void open_box_in(const std::filesystem::path& folder, const comm::World& world) {
  static std::unique_ptr<base::Blackbox> box;
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  try {
    box = std::make_unique<base::Blackbox>(folder / base::box_name(world.rank()), world.rank(), world.size());
  } catch (const Error& error) {
    spdlog::warn("rank {} cannot be watched: {}", world.rank(), error.what());
  }
}

// "" or "-2", "-3" ...: the first that no other process has. Held until this process ends.
std::string take_place(const std::filesystem::path& out, int& place) {
  static std::optional<base::FileLock> held;
  for (place = 1;; ++place) {
    const std::string suffix = place == 1 ? "" : fmt::format("-{}", place);
    const std::filesystem::path folder = out / ("ranks" + suffix);
    make_folder(folder, out.string());
    held = base::FileLock::take(folder / "taken");
    if (held) return suffix;
  }
}

}  // namespace

void open_log(const std::filesystem::path& out, const std::string& source, int rank) {
  umask(0077);
  if (rank != 0) return;
  make_folder(out, source);
  base::init_log(rank, out / "log.rank0");
}

void open_box(const std::filesystem::path& out, const comm::World& world) {
  open_box_in(out / "ranks", world);
}

void open_shared(const std::filesystem::path& out, const std::string& source, comm::World& world) {
  umask(0077);
  const auto ranks = world.split(0, "folder");
  int place = 0;
  std::string error;
  if (world.rank() == 0) {
    try {
      make_folder(out, source);
      base::init_log(0, out / ("log.rank0" + take_place(out, place)));
    } catch (const Error& e) {
      error = e.what();
    }
  }
  ranks->agree(error, ExitCode::kUsage, "open the folder");
  place = int(ranks->all_reduce(double(place), comm::ReduceOp::kMax, "place in the folder"));
  open_box_in(out / (place == 1 ? "ranks" : fmt::format("ranks-{}", place)), world);
}

}  // namespace cadre::launch
