// `cadre swarm`: many small runs over random mixes, a law of the loss, and the mix that it proposes.
#include <fmt/format.h>

#include <memory>

#include "launch/commit.h"
#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "trainer/run/stop.h"
#include "trainer/study/swarm.h"

namespace cadre::launch {
namespace {

struct SwarmArguments {
  std::string file;
  std::vector<std::string> overrides;
  bool retry_failed = false;
};

int swarm_rank(const SwarmArguments& arguments, comm::World& world) {
  base::Section root = base::parse_run_file(arguments.file, arguments.overrides);
  const study::SwarmConfig config = study::read_swarm(root.section("swarm"));
  for (const char* other : {"study", "audit"}) root.section(other);  // their verbs read them
  root.finish();
  trainer::install_stop_signals(!started_by_launcher());
  const std::filesystem::path out = config.study.out;
  open_log(out, arguments.file, world.rank());
  open_box(out, world);
  const ExitCode code = study::run_swarm(config, world,
                                         {.train = {.measure_peak = false, .commit = commit()},
                                          .retry_failed = arguments.retry_failed,
                                          .dataset = nullptr});
  if (world.rank() != 0) return int(code);
  if (code == ExitCode::kStopped) {
    fmt::print("stopped on request; the same command goes on from there\n");
  } else {
    fmt::print("\n{}\nwrote {} and {}\n", base::read_file(out / "swarm.md", ExitCode::kData),
               (out / "proposal.json").string(), (out / "swarm.html").string());
  }
  return int(code);
}

}  // namespace

void add_swarm(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<SwarmArguments>();
  CLI::App* verb = app.add_subcommand("swarm", "Find a mix from many small runs over random mixes");
  verb->add_option("file", arguments->file, "A study file with a `swarm` section")->required();
  verb->add_option("overrides", arguments->overrides, "swarm.key=value ...");
  verb->add_flag("--retry-failed", arguments->retry_failed, "Make runs that failed once more");
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return swarm_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
