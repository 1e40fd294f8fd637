// `cadre swarm`: many small runs over random mixes, a law of the loss, and the mix that it proposes.
#include <fmt/format.h>

#include <memory>

#include "launch/commit.h"
#include "launch/job_options.h"
#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "parallel/base/run_file.h"
#include "trainer/run/stop.h"
#include "trainer/study/run_files.h"
#include "trainer/study/swarm.h"

namespace cadre::launch {
namespace {

struct SwarmArguments {
  std::string file;
  std::vector<std::string> overrides;
  bool retry_failed = false;
  JobOptions jobs;
};

study::SwarmConfig read_file(const SwarmArguments& arguments) {
  base::Section root = base::parse_run_file(arguments.file, arguments.overrides, study::holds_paths);
  study::SwarmConfig config = study::read_swarm(section_of_verb(root, "swarm"));
  root.finish();
  return config;
}

void print_end(const study::SwarmConfig& config, int code) {
  const std::filesystem::path out = config.study.out;
  std::error_code none;
  if (code == int(ExitCode::kStopped))
    return fmt::print("stopped on request; the same command goes on from there\n");
  if (!std::filesystem::exists(out / "swarm.md", none)) return;
  fmt::print("\n{}\nwrote {} and {}\n", base::read_file(out / "swarm.md", ExitCode::kData),
             (out / "proposal.json").string(), (out / "swarm.html").string());
}

int swarm_rank(const SwarmArguments& arguments, comm::World& world) {
  const study::SwarmConfig config = read_file(arguments);
  trainer::install_stop_signals(!started_by_launcher());
  open_shared(config.study.out, arguments.file, world);
  const ExitCode code = study::run_swarm(config, world,
                                         {.train = {.measure_peak = false, .commit = commit()},
                                          .retry_failed = arguments.retry_failed,
                                          .dataset = nullptr});
  if (world.rank() == 0 && !arguments.jobs.is_one_of_several()) print_end(config, int(code));
  return int(code);
}

int swarm_jobs(const SwarmArguments& arguments) {
  const study::SwarmConfig config = read_file(arguments);
  if (arguments.retry_failed) study::forget_failures(study::study_of(config));
  std::vector<std::string> rest = {"swarm", arguments.file};
  rest.insert(rest.end(), arguments.overrides.begin(), arguments.overrides.end());
  const int code = run_jobs(arguments.jobs, rest);
  print_end(config, code);
  return code;
}

}  // namespace

void add_swarm(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<SwarmArguments>();
  CLI::App* verb = app.add_subcommand("swarm", "Find a mix from many small runs over random mixes");
  verb->add_option("file", arguments->file, "A study file with a `swarm` section")->required();
  verb->add_option("overrides", arguments->overrides, "swarm.key=value ...");
  verb->add_flag("--retry-failed", arguments->retry_failed, "Make runs that failed once more");
  add_job_options(verb, arguments->jobs);
  verb->callback([arguments, &run] {
    run = [arguments] {
      if (arguments->jobs.jobs > 1) return swarm_jobs(*arguments);
      join_jobs(arguments->jobs);
      return run_ranks([&](comm::World& world) { return swarm_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
