// Starting mpirun (or a lone rank) and standing between it and the terminal or scheduler. mpirun kills its
// ranks soon after a SIGTERM, so a request to stop becomes SIGUSR1, which ranks take as: finish the step,
// write a checkpoint, exit 75.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace cadre::launch {

struct Supervised {
  std::vector<std::string> command;                                // argv; [0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> environment;    // added to ours, in the child only
  std::chrono::milliseconds grace = std::chrono::seconds(60);      // between a request to stop and killing
  std::chrono::milliseconds kill_after = std::chrono::seconds(5);  // between SIGTERM and SIGKILL
};

// Runs the command to its end and returns its exit code, 128 + n when signal n ended it. SIGTERM, SIGINT and
// SIGHUP ask it to stop, a second one at once; SIGUSR1 and SIGUSR2 are passed on. Nothing it started outlives
// this call, or this process. Throws Error(kUsage) when it cannot be started. For the main thread; changes
// the signal mask while it runs.
int supervise(const Supervised& job);

}  // namespace cadre::launch
