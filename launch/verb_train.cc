// `cadre train`: one rank of a run. Alone or under mpirun or srun; resuming is automatic.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "launch/commit.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "parallel/base/blackbox.h"
#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/loop.h"
#include "trainer/run/stop.h"

namespace cadre::launch {
namespace {

struct TrainArguments {
  std::string run_file;
  std::vector<std::string> overrides;
  std::string progress = "auto";
};

// mpirun passes SIGUSR1 on, and kills its ranks soon after it got a SIGTERM itself.
bool started_by_launcher() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(variable) != nullptr) return true;
  }
  return false;
}

// mpirun gives its ranks a terminal of their own whatever its own output is, so that only a rank started
// without it can tell; `cadre launch` looks for the others.
trainer::ProgressStyle progress_style(const TrainArguments& arguments) {
  const bool terminal = arguments.progress == "auto" ? isatty(STDOUT_FILENO) == 1 && !started_by_launcher()
                                                     : arguments.progress == "line";
  return terminal ? trainer::ProgressStyle::kTerminal : trainer::ProgressStyle::kLines;
}

// The run folder and its log, on rank 0. Everything that a run writes is private: text may be confidential.
void open_log(const trainer::RunConfig& config, int rank) {
  umask(0077);
  if (rank != 0) return;
  std::error_code code;
  std::filesystem::create_directories(config.out, code);
  require(!code, ExitCode::kUsage, "{}: cannot create the run folder `out: {}`: {}", config.source,
          config.out, code.message());
  base::init_log(rank, std::filesystem::path(config.out) / "log.rank0");
}

// The rank's box, which lives as long as the process: what is in it matters most when the process ends. Without one
// (a full disk) the run goes on unwatched.
void open_box(const trainer::RunConfig& config, const comm::World& world) {
  static std::unique_ptr<base::Blackbox> box;
  const std::filesystem::path folder = std::filesystem::path(config.out) / "ranks";
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  try {
    box = std::make_unique<base::Blackbox>(folder / base::box_name(world.rank()), world.rank(), world.size());
  } catch (const Error& error) {
    spdlog::warn("rank {} cannot be watched: {}", world.rank(), error.what());
  }
}

int train_rank(const TrainArguments& arguments, comm::World& world) {
  const auto config = trainer::load_run(arguments.run_file, arguments.overrides);
  trainer::install_stop_signals(!started_by_launcher());
  open_log(config, world.rank());
  open_box(config, world);
  const trainer::Dataset dataset = trainer::open_dataset(config);
  return int(
      trainer::train(config, dataset, world, {.progress = progress_style(arguments), .commit = commit()}));
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* verb = app.add_subcommand("train", "Train (one rank of) a run; goes on from its last checkpoint");
  verb->add_option("run", arguments->run_file, "The run file")->required();
  verb->add_option("overrides", arguments->overrides, "key.sub=value ...");
  verb->add_option("--progress", arguments->progress,
                   "line: one that is rewritten, plain: a line now and then; auto: by the terminal")
      ->check(CLI::IsMember({"auto", "line", "plain"}))
      ->capture_default_str();
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return train_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
