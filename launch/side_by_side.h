// `--jobs N`: several processes of this program that share the work of one folder and this machine.
#pragma once

#include <string>
#include <vector>

namespace cadre::launch {

struct SideBySide {
  std::vector<std::string> command;  // argv of each; [0] is a path
  int count = 1;
  // What each adds to its environment, such as its GPU; as many as there are processes, or none.
  std::vector<std::vector<std::string>> environment = {};  // "NAME=value"
};

// Runs them to their end and returns the exit code of each in order, 128 + n when signal n ended it. `--job I/N` is
// added to each command. What they print comes out line by line with "[job I] " in front. SIGTERM, SIGINT and SIGHUP ask
// all of them to stop, a second one ends them; SIGUSR1 is passed on. Throws Error(kUsage) when one cannot be started.
std::vector<int> run_side_by_side(const SideBySide& jobs);

// One exit code for all, since their work is shared: 0 when one found everything done, else that of the first which failed,
// else that of being stopped; that of a signal only when all were ended by one.
int common_code(const std::vector<int>& codes);

// One GPU for each in turn, when there are several: entries of CUDA_VISIBLE_DEVICES.
std::vector<std::vector<std::string>> one_gpu_each(const std::vector<std::string>& gpus, int count);

}  // namespace cadre::launch
