// `cadre study`: many small runs in this process group, with tables and plots at the end.
#include <fmt/format.h>

#include <memory>

#include "launch/commit.h"
#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/log.h"
#include "trainer/run/stop.h"
#include "trainer/study/study_report.h"

namespace cadre::launch {
namespace {

struct StudyArguments {
  std::string file;
  std::vector<std::string> overrides;
  std::string progress = "plain";
  bool list = false, retry_failed = false;
};

void print_list(const study::StudyConfig& config) {
  for (const study::StudyRun& run : config.runs) fmt::print("{}\n", run.name);
  fmt::print("{} runs below {}\n", config.runs.size(), (std::filesystem::path(config.out) / "runs").string());
}

int study_rank(const StudyArguments& arguments, comm::World& world) {
  base::Section root = base::parse_run_file(arguments.file, arguments.overrides);
  const study::StudyConfig config = study::read_study(root.section("study"));
  for (const char* other : {"audit", "swarm"}) root.section(other);  // their verbs read them
  root.finish();
  if (arguments.list) {
    if (world.rank() == 0) print_list(config);
    return int(ExitCode::kOk);
  }
  trainer::install_stop_signals(!started_by_launcher());
  open_log(config.out, arguments.file, world.rank());
  open_box(config.out, world);
  const ExitCode code = study::run_study(
      config, world,
      {.train = {.progress = progress_style(arguments.progress), .measure_peak = false, .commit = commit()},
       .retry_failed = arguments.retry_failed,
       .dataset = nullptr});
  if (world.rank() != 0) return int(code);
  if (code == ExitCode::kStopped) {
    fmt::print("stopped on request; the same command goes on from there\n");
  } else {
    fmt::print("\n{}\nwrote {}\n", study::results_markdown(config, study::collect_results(config)),
               (std::filesystem::path(config.out) / "report.html").string());
  }
  return int(code);
}

}  // namespace

void add_study(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<StudyArguments>();
  CLI::App* verb =
      app.add_subcommand("study", "Many small runs, one after the other, and what they say together");
  verb->add_option("file", arguments->file, "The study file")->required();
  verb->add_option("overrides", arguments->overrides, "study.key=value ...");
  verb->add_option("--progress", arguments->progress,
                   "line: one that is rewritten, plain: a line now and then")
      ->check(CLI::IsMember({"auto", "line", "plain"}))
      ->capture_default_str();
  verb->add_flag("--list", arguments->list, "Only check the file and list its runs");
  verb->add_flag("--retry-failed", arguments->retry_failed, "Make runs that failed once more");
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return study_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
