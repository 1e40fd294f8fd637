#include "trainer/run/stop.h"

#include <unistd.h>

#include <csignal>
#include <ctime>

namespace cadre::trainer {
namespace {

volatile std::sig_atomic_t stop_flag = 0;
volatile std::sig_atomic_t asked_at = 0;  // seconds, coarse; 0: not yet

// A second Ctrl-C ends the run at once. What comes within two seconds is the same request: timeout(1) signals the process
// and its group, and a launcher passes on what the terminal has sent as well.
extern "C" void on_stop_signal(int signal) {
  constexpr int kSameRequest = 2;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const auto seconds = std::sig_atomic_t(now.tv_sec);
  if (signal != SIGUSR1) {
    if (asked_at != 0 && seconds - asked_at >= kSameRequest) {
      std::signal(signal, SIG_DFL);
      kill(getpid(), signal);
    } else if (asked_at == 0) {
      asked_at = seconds;
    }
  }
  stop_flag = 1;
}

}  // namespace

void install_stop_signals(bool terminal_signals) {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;  // a write under way must not fail because somebody asked to stop
  sigaction(SIGUSR1, &action, nullptr);
  if (terminal_signals) {
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
  }
}
bool stop_requested() {
  return stop_flag != 0;
}
void request_stop(bool value) {
  stop_flag = value ? 1 : 0;
}

}  // namespace cadre::trainer
