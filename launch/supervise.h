// Starting mpirun (or a lone rank) and standing between it and the terminal or scheduler. mpirun kills its
// ranks soon after a SIGTERM, so a request to stop becomes SIGUSR1, which ranks take as: finish the step,
// write a checkpoint, exit 75.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cadre::launch {

struct Supervised {
  std::vector<std::string> command;                                // argv; [0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> environment;    // added to ours, in the child only
  std::chrono::milliseconds grace = std::chrono::seconds(60);      // between a request to stop and killing
  std::chrono::milliseconds kill_after = std::chrono::seconds(5);  // between SIGTERM and SIGKILL
  // Called now and then while the command runs; a text says why it must be ended now.
  std::function<std::string()> watch = {};
  std::chrono::milliseconds watch_every = std::chrono::seconds(1);
};

struct Ended {
  int code = 0;        // the exit code, 128 + n when signal n ended it
  bool asked = false;  // somebody asked for the end (SIGUSR1 counts: ranks take it so)
  std::string reason;  // the watch's, when it ended the command
};

// Holds back the signals below as long as it lives, so that none is lost between two commands. For the main
// thread; one at a time.
class Supervisor {
 public:
  Supervisor();
  ~Supervisor();
  // Runs the command to its end. SIGTERM, SIGINT and SIGHUP ask it to stop, a second one at once; SIGUSR1 and
  // SIGUSR2 are passed on. Nothing it started outlives this call, or this process. Throws Error(kUsage) when
  // it cannot be started.
  Ended run(const Supervised& job);
  // False as soon as somebody asks to stop.
  bool pause(std::chrono::milliseconds time);

 private:
  class Signals;
  std::unique_ptr<Signals> signals_;
};

}  // namespace cadre::launch
