// `cadre audit`: whether an influence estimator says what training then does.
#include <fmt/format.h>

#include <memory>

#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "trainer/audit/audit.h"
#include "trainer/run/stop.h"

namespace cadre::launch {
namespace {

struct AuditArguments {
  std::string file;
  std::vector<std::string> overrides;
};

int audit_rank(const AuditArguments& arguments, comm::World& world) {
  base::Section root = base::parse_run_file(arguments.file, arguments.overrides);
  const audit::AuditConfig config = audit::read_audit(root.section("audit"));
  for (const char* other : {"study", "swarm"}) root.section(other);  // their verbs read them
  root.finish();
  trainer::install_stop_signals(!started_by_launcher());
  open_log(config.out, arguments.file, world.rank());
  open_box(config.out, world);
  const ExitCode code = audit::run_audit(config, world);
  const std::filesystem::path out = config.out;
  if (code == ExitCode::kStopped) {
    fmt::print("stopped on request; the same command goes on from there\n");
  } else {
    fmt::print("\n{}\nwrote {}\n", base::read_file(out / "audit.md", ExitCode::kData),
               (out / "report.html").string());
  }
  return int(code);
}

}  // namespace

void add_audit(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<AuditArguments>();
  CLI::App* verb = app.add_subcommand("audit", "Check influence against what training does");
  verb->add_option("file", arguments->file, "A study file with an `audit` section")->required();
  verb->add_option("overrides", arguments->overrides, "audit.key=value ...");
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return audit_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
