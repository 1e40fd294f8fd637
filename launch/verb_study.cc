// `cadre study`: many small runs, in one process group or shared among several, with tables and plots at the end.
#include <fmt/format.h>

#include <memory>

#include "launch/commit.h"
#include "launch/job_options.h"
#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/log.h"
#include "parallel/base/run_file.h"
#include "trainer/run/stop.h"
#include "trainer/study/run_files.h"
#include "trainer/study/study_report.h"

namespace cadre::launch {
namespace {

struct StudyArguments {
  std::string file;
  std::vector<std::string> overrides;
  std::string progress = "plain";
  bool list = false, retry_failed = false;
  JobOptions jobs;
};

study::StudyConfig read_file(const StudyArguments& arguments) {
  base::Section root = base::parse_run_file(arguments.file, arguments.overrides, study::holds_paths);
  study::StudyConfig config = study::read_study(section_of_verb(root, "study"));
  root.finish();
  return config;
}

void print_list(const study::StudyConfig& config) {
  for (const study::StudyRun& run : config.runs) fmt::print("{}\n", run.name);
  fmt::print("{} runs below {}\n", config.runs.size(), (std::filesystem::path(config.out) / "runs").string());
}

void print_end(const study::StudyConfig& config, int code) {
  if (code == int(ExitCode::kStopped))
    return fmt::print("stopped on request; the same command goes on from there\n");
  const auto results = study::collect_results(config);
  fmt::print("\n{}\n", study::results_markdown(config, results));
  if (results.size() == config.runs.size())
    fmt::print("wrote {}\n", (std::filesystem::path(config.out) / "report.html").string());
}

int study_rank(const StudyArguments& arguments, comm::World& world) {
  const study::StudyConfig config = read_file(arguments);
  if (arguments.list) {
    if (world.rank() == 0) print_list(config);
    return int(ExitCode::kOk);
  }
  trainer::install_stop_signals(!started_by_launcher());
  open_shared(config.out, arguments.file, world);
  const ExitCode code = study::run_study(
      config, world,
      {.train = {.progress = progress_style(arguments.progress), .measure_peak = false, .commit = commit()},
       .retry_failed = arguments.retry_failed,
       .dataset = nullptr});
  if (world.rank() == 0 && !arguments.jobs.is_one_of_several()) print_end(config, int(code));
  return int(code);
}

// The whole is read once before the jobs are started: a mistake is one line.
int study_jobs(const StudyArguments& arguments) {
  const study::StudyConfig config = read_file(arguments);
  if (arguments.retry_failed) study::forget_failures(config);
  std::vector<std::string> rest = {"study", arguments.file};
  rest.insert(rest.end(), arguments.overrides.begin(), arguments.overrides.end());
  const int code = run_jobs(arguments.jobs, rest);
  print_end(config, code);
  return code;
}

}  // namespace

void add_study(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<StudyArguments>();
  CLI::App* verb = app.add_subcommand("study", "Many small runs and what they say together");
  verb->add_option("file", arguments->file, "The study file")->required();
  verb->add_option("overrides", arguments->overrides, "study.key=value ...");
  verb->add_option("--progress", arguments->progress,
                   "line: one that is rewritten, plain: a line now and then")
      ->check(CLI::IsMember({"auto", "line", "plain"}))
      ->capture_default_str();
  verb->add_flag("--list", arguments->list, "Only check the file and list its runs");
  verb->add_flag("--retry-failed", arguments->retry_failed, "Make runs that failed once more");
  add_job_options(verb, arguments->jobs);
  verb->callback([arguments, &run] {
    run = [arguments] {
      if (arguments->jobs.jobs > 1 && !arguments->list) return study_jobs(*arguments);
      join_jobs(arguments->jobs);
      return run_ranks([&](comm::World& world) { return study_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
