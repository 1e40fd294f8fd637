// The command line that starts the ranks: mpirun on this host or on a list of hosts, srun inside a Slurm job.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "launch/hosts.h"

namespace cadre::launch {

// Physical cores that this process may use; what Open MPI counts as slots.
int physical_cores();

enum class Starter { kMpirun, kSrun };
struct StartOptions {
  Starter starter = Starter::kMpirun;
  int ranks = 1;
  int cores = 1;            // of this host
  std::vector<Host> hosts;  // empty: this host alone
  bool on_gpus = false;     // each rank takes the GPU of its number on its host
  int gpus = 0;             // of this host
};
// argv of `ranks` copies of `rank`. A lone rank on this host needs no mpirun. Throws Error(kUsage) when the
// starter is not in PATH.
std::vector<std::string> start_command(const StartOptions& start, const std::vector<std::string>& rank);
// For people: how many ranks where, with how many threads (0: the cores shared out).
std::string describe_places(const StartOptions& start, int threads);

// What the ranks' environment gets: one BLAS thread, since kernels are spread over the rank's own threads,
// and for root the permission that Open MPI asks for.
std::vector<std::pair<std::string, std::string>> rank_environment(bool root);

// As one would type it.
std::string shell_line(const std::vector<std::string>& command);

}  // namespace cadre::launch
