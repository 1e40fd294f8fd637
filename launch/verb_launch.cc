// `cadre launch`: starts the ranks of a run on this host through mpirun and stands by them until they end.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "launch/mpirun.h"
#include "launch/supervise.h"
#include "launch/verbs.h"
#include "trainer/run/run_config.h"

namespace cadre::launch {
namespace {

struct LaunchOptions {
  int num_ranks = 1;
  int grace_seconds = 60;
  std::string run_file;
  std::vector<std::string> overrides;
};

int launch(const LaunchOptions& options) {
  // A mistake in the run file is reported once, before any rank starts.
  trainer::read_run(base::parse_run_file(options.run_file, options.overrides));
  std::vector<std::string> rank = {std::filesystem::read_symlink("/proc/self/exe"), "train",
                                   options.run_file};
  rank.insert(rank.end(), options.overrides.begin(), options.overrides.end());
  Supervised job;
  job.command = mpirun_command(options.num_ranks, physical_cores(), rank);
  job.environment = rank_environment(geteuid() == 0);
  job.grace = std::chrono::seconds(options.grace_seconds);
  fmt::print("{}\n", shell_line(job.command));
  std::fflush(stdout);  // before the ranks' own lines
  return supervise(job);
}

}  // namespace

void add_launch(CLI::App& app, Run& run) {
  const auto options = std::make_shared<LaunchOptions>();
  CLI::App* verb = app.add_subcommand("launch", "Start and supervise the ranks of a run on this host");
  verb->add_option("-n", options->num_ranks, "Number of ranks")->required()->check(CLI::Range(1, 4096));
  verb->add_option("run", options->run_file, "The run file")->required();
  verb->add_option("overrides", options->overrides, "key.sub=value ...");
  verb->add_option("--grace", options->grace_seconds,
                   "Seconds from a request to stop until the ranks are killed")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  verb->callback([options, &run] { run = [options] { return launch(*options); }; });
}

}  // namespace cadre::launch
