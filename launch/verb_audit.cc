// `cadre audit`: whether an influence estimator says what training then does.
#include <fmt/format.h>

#include <memory>

#include "launch/job_options.h"
#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "parallel/base/run_file.h"
#include "trainer/audit/audit.h"
#include "trainer/run/stop.h"

namespace cadre::launch {
namespace {

struct AuditArguments {
  std::string file;
  std::vector<std::string> overrides;
  JobOptions jobs;
};

audit::AuditConfig read_file(const AuditArguments& arguments) {
  base::Section root = base::parse_run_file(arguments.file, arguments.overrides, study::holds_paths);
  audit::AuditConfig config = audit::read_audit(section_of_verb(root, "audit"));
  root.finish();
  return config;
}

void print_end(const audit::AuditConfig& config, int code) {
  const std::filesystem::path out = config.out;
  std::error_code none;
  if (code == int(ExitCode::kStopped))
    return fmt::print("stopped on request; the same command goes on from there\n");
  if (!std::filesystem::exists(out / "audit.md", none)) return;
  fmt::print("\n{}\nwrote {}\n", base::read_file(out / "audit.md", ExitCode::kData),
             (out / "report.html").string());
}

int audit_rank(const AuditArguments& arguments, comm::World& world) {
  const audit::AuditConfig config = read_file(arguments);
  trainer::install_stop_signals(!started_by_launcher());
  open_shared(config.out, arguments.file, world);
  const ExitCode code = audit::run_audit(config, world);
  if (!arguments.jobs.is_one_of_several()) print_end(config, int(code));
  return int(code);
}

int audit_jobs(const AuditArguments& arguments) {
  const audit::AuditConfig config = read_file(arguments);
  std::vector<std::string> rest = {"audit", arguments.file};
  rest.insert(rest.end(), arguments.overrides.begin(), arguments.overrides.end());
  const int code = run_jobs(arguments.jobs, rest);
  print_end(config, code);
  return code;
}

}  // namespace

void add_audit(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<AuditArguments>();
  CLI::App* verb = app.add_subcommand("audit", "Check influence against what training does");
  verb->add_option("file", arguments->file, "A study file with an `audit` section")->required();
  verb->add_option("overrides", arguments->overrides, "audit.key=value ...");
  add_job_options(verb, arguments->jobs);
  verb->callback([arguments, &run] {
    run = [arguments] {
      if (arguments->jobs.jobs > 1) return audit_jobs(*arguments);
      join_jobs(arguments->jobs);
      return run_ranks([&](comm::World& world) { return audit_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
