// `cadre top`: follows a run in the terminal by reading its folder; the run does not notice.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "launch/option_checks.h"
#include "launch/verbs.h"
#include "parallel/base/errors.h"
#include "trainer/report/top.h"

namespace cadre::launch {
namespace {

struct TopOptions {
  std::string run;
  bool once = false;
  double interval = 1;
};

int terminal_width() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

int top(const TopOptions& options) {
  for (;;) {
    const std::string screen = report::top_screen(report::read_run_folder(options.run), terminal_width());
    // Home, the text, and what an older and longer screen left below is cleared.
    fmt::print("{}{}{}", options.once ? "" : "\x1b[H\x1b[2J", screen,
               options.once ? "" : "\n  Ctrl-C ends this view\n");
    std::fflush(stdout);
    if (options.once) return int(ExitCode::kOk);
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval));
  }
}

}  // namespace

void add_top(CLI::App& app, Run& run) {
  const auto options = std::make_shared<TopOptions>();
  CLI::App* verb = app.add_subcommand("top", "Follow a run in the terminal");
  verb->add_option("run", options->run, "The run's folder")->required();
  verb->add_flag("--once", options->once, "Print once and end");
  verb->add_option("--interval", options->interval, "Seconds between two looks")
      ->check(between(0.1, 3600.0))
      ->capture_default_str();
  verb->callback([options, &run] { run = [options] { return top(*options); }; });
}

}  // namespace cadre::launch
