#include "data/prepare/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace cadre::data {
namespace {

constexpr int64_t kTerminalMs = 200, kPlainMs = 10'000;

std::string time_left(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

}  // namespace

Progress::Progress(std::string pass, uint64_t total, std::string unit, bool shown)
    : pass_(std::move(pass)),
      unit_(std::move(unit)),
      total_(total),
      shown_(shown),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      next_ms_(terminal_ ? kTerminalMs : kPlainMs) {}

Progress::~Progress() {
  if (shown_ && terminal_) show(true);
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::add(uint64_t amount) {
  done_.fetch_add(amount, std::memory_order_relaxed);
  if (!shown_) return;
  const int64_t now = static_cast<int64_t>(seconds() * 1000);
  int64_t due = next_ms_.load(std::memory_order_relaxed);
  if (now < due || !next_ms_.compare_exchange_strong(due, now + (terminal_ ? kTerminalMs : kPlainMs))) return;
  show(false);
}

void Progress::show(bool last) {
  const double seconds = std::max(this->seconds(), 1e-3);
  const double done = static_cast<double>(done_.load(std::memory_order_relaxed));
  const double share = total_ > 0 ? std::min(1.0, done / static_cast<double>(total_)) : 1.0;
  const std::string left = share > 0.01 ? time_left(seconds * (1 - share) / share) : "?";
  const std::string text =
      fmt::format("{:<9} {:3.0f}%  {:.1f} of {:.1f} {}  {:.1f} {}/s  {}", pass_, share * 100, done / 1e6,
                  static_cast<double>(total_) / 1e6, unit_, done / 1e6 / seconds, unit_,
                  last ? "took " + time_left(seconds) : left + " left");
  const std::lock_guard lock(mutex_);
  if (terminal_) {
    constexpr int kBar = 24;
    const std::string bar(static_cast<size_t>(share * kBar), '#');
    fmt::print(stderr, "\r[{:<{}}] {}\x1b[K{}", bar, kBar, text, last ? "\n" : "");
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  std::fflush(stderr);
}

}  // namespace cadre::data
