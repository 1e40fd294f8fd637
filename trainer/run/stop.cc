#include "trainer/run/stop.h"

#include <csignal>

namespace cadre::trainer {
namespace {

volatile std::sig_atomic_t stop_flag = 0;
extern "C" void on_stop_signal(int) {
  stop_flag = 1;
}

}  // namespace

void install_stop_signals(bool terminal_signals) {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;  // a write under way must not fail because somebody asked to stop
  sigaction(SIGUSR1, &action, nullptr);
  // A second Ctrl-C ends the run at once.
  action.sa_flags = SA_RESTART | SA_RESETHAND;
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
