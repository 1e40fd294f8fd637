#include "trainer/run/console.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>

namespace cadre::trainer {
namespace {

using Clock = std::chrono::steady_clock;
// Often enough to look alive, seldom enough to cost nothing.
constexpr auto kTerminalPause = std::chrono::milliseconds(200);
// A plain line comes at least this often, so that a log shows life within ten seconds whatever log.every
// says.
constexpr auto kLogPause = std::chrono::seconds(8);

}  // namespace

Console::Console(bool enabled, int64_t every)
    : enabled_(enabled), terminal_(enabled && isatty(STDOUT_FILENO) == 1), every_(every) {}

void Console::step(const Progress& progress, const StepReport& report, double tokens_per_s, double left_s) {
  if (!enabled_) return;
  const bool first = last_ == Clock::time_point{}, end = progress.step == progress.total_steps;
  const auto since = Clock::now() - last_;
  const bool due =
      terminal_ ? since > kTerminalPause : progress.step % uint64_t(every_) == 0 || since > kLogPause;
  if (!first && !end && !due) return;
  last_ = Clock::now();
  const std::string text = fmt::format(
      "step {}/{}  loss {:.4f}  {:.0f} tokens/s  {}{}", progress.step, progress.total_steps, report.loss,
      tokens_per_s, left_s >= 0 ? duration_text(left_s) + " left" : "", report.skipped ? "  SKIPPED" : "");
  if (terminal_) {
    fmt::print("\r{}\x1b[K", text);
    open_ = true;
  } else {
    fmt::print("{}\n", text);
  }
  std::fflush(stdout);
}

void Console::line(const std::string& text) {
  if (!enabled_) return;
  if (open_) fmt::print("\n");
  open_ = false;
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

std::string duration_text(double seconds) {
  const int64_t s = int64_t(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace cadre::trainer
