// The `cadre` command line: one subcommand a verb, and the one place where errors end.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "launch/open_files.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "parallel/base/config.h"

namespace cadre::launch {
namespace {

void add_verbs(CLI::App& app, Run& run) {
  add_prepare(app, run);
  add_train(app, run);
  add_launch(app, run);
  add_plan(app, run);
  add_eval(app, run);
  add_generate(app, run);
  add_inspect(app, run);
  add_bench(app, run);
  add_study(app, run);
  add_swarm(app, run);
  add_estimate(app, run);
  add_audit(app, run);
  add_report(app, run);
  add_top(app, run);
  add_objective(app, run);
  add_rollout(app, run);
  add_import(app, run);
  add_score(app, run);
  add_export(app, run);
}

// CLI11 says only that a subcommand is required; name the word and the verb that was probably meant.
void check_verb(const CLI::App& app, const std::string& word) {
  if (word.empty() || word.front() == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands({})) {
    if (verb->get_name() == word) return;
    names.push_back(verb->get_name());
  }
  const std::string near = base::nearest(word, names);
  fail(ExitCode::kUsage, "unknown verb '{}'{}\nVerbs: {}. See `cadre --help`.", word,
       near.empty() ? "" : fmt::format(", did you mean '{}'?", near), fmt::join(names, ", "));
}

int run_command_line(int argc, char** argv) {
  CLI::App app("Cadre trains Mixture-of-Experts language models.", "cadre");
  app.set_version_flag("--version", "cadre " CADRE_VERSION);
  app.require_subcommand(1);
  Run run;
  add_verbs(app, run);
  if (argc > 1) check_verb(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version are CLI11 "errors" with code 0; its other codes are its own.
    return app.exit(error) == 0 ? int(ExitCode::kOk) : int(ExitCode::kUsage);
  }
  return run();
}

}  // namespace
}  // namespace cadre::launch

int main(int argc, char** argv) {
  cadre::launch::raise_open_files();
  try {
    return cadre::launch::run_command_line(argc, argv);
  } catch (...) {
    return cadre::launch::report_failure();
  }
}
