// The `cadre` command line: one subcommand a verb, and the one place where errors end.
#include <fcntl.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
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

// A process that is started without one of the standard streams (`>&-`) would be given a file of its own in that place and
// print into it.
void open_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);  // takes the lowest number that is free
  }
}

// A file that grows past `ulimit -f` is an error of that write, as a full disk is, and not the end of the process. A handler
// and not SIG_IGN, so that programs started from here do not inherit it.
void survive_file_limits() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  sigaction(SIGXFSZ, &action, nullptr);
}

// What is wrong with the command line, in one line like every other mistake.
std::string one_line(const CLI::App* app, const CLI::Error& error) {
  std::string what = error.what();
  std::replace(what.begin(), what.end(), '\n', ' ');
  std::string verb = "cadre";
  for (const CLI::App* chosen : app->get_subcommands()) verb += " " + chosen->get_name();
  return fmt::format("cadre: {}. See `{} --help`.\n", what, verb);
}

// The answer of a verb that only prints may be lost in a buffer: a full disk behind `> file`. Verbs that keep their results
// in files have done their work all the same.
int printed(int code, const CLI::App& app) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const std::string error = errno != 0 ? std::strerror(errno) : "a write failed";
  const std::string verb = app.get_subcommands().front()->get_name();
  for (const char* keeps : {"train", "launch", "study", "swarm", "audit"}) {
    if (verb == keeps) return code;
  }
  fmt::print(stderr, "cadre: cannot write the standard output: {}\n", error);
  return code == int(ExitCode::kOk) ? 1 : code;
}

int run_command_line(int argc, char** argv) {
  open_standard_streams();
  survive_file_limits();
  raise_open_files();
  CLI::App app("Cadre trains Mixture-of-Experts language models.", "cadre");
  app.set_version_flag("--version", "cadre " CADRE_VERSION);
  app.require_subcommand(1);
  app.failure_message(one_line);
  Run run;
  add_verbs(app, run);
  if (argc > 1) check_verb(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version are CLI11 "errors" with code 0; its other codes are its own.
    return app.exit(error) == 0 ? int(ExitCode::kOk) : int(ExitCode::kUsage);
  }
  return printed(run(), app);
}

}  // namespace
}  // namespace cadre::launch

int main(int argc, char** argv) {
  try {
    return cadre::launch::run_command_line(argc, argv);
  } catch (...) {
    return cadre::launch::report_failure();
  }
}
