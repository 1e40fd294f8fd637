#include "launch/run_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>

#include "parallel/base/blackbox.h"
#include "parallel/base/errors.h"
#include "parallel/base/file_lock.h"
#include "parallel/base/log.h"
#include "trainer/run/stop.h"

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

// What is wrong, or nothing and the lock in `held`. An earlier process may still be ending, and a server of files gives up
// the locks of a lost host only after its lease: 90 s with NFS 4.
std::string take_claim(const std::filesystem::path& out, const std::string& source,
                       std::optional<base::FileLock>& held) {
  constexpr auto kPatience = std::chrono::seconds(120);
  constexpr auto kMoment = std::chrono::milliseconds(100);
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  bool said = false;
  try {
    while (!(held = base::FileLock::take(out / "claim"))) {
      if (trainer::stop_requested() || std::chrono::steady_clock::now() > give_up)
        return fmt::format(
            "{}: another process trains in `out: {}`; wait until it has ended, or give another `out`", source,
            out.string());
      if (!said)
        spdlog::warn("another process trains in {}: waiting for its end, {} s at most", out.string(),
                     kPatience.count());
      said = true;
      std::this_thread::sleep_for(kMoment);
    }
  } catch (const Error& error) {
    spdlog::warn("nothing keeps a second process out of this run: {}", error.what());
  }
  return "";
}

}  // namespace

void claim_run(const std::filesystem::path& out, const std::string& source, comm::World& world) {
  static std::optional<base::FileLock> held;
  const auto ranks = world.everyone("claim");
  ranks->agree(world.rank() == 0 ? take_claim(out, source, held) : "", ExitCode::kUsage,
               "claim the run's folder");
}

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
  const auto ranks = world.everyone("folder");
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
