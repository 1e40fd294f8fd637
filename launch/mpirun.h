// The mpirun command line for ranks on this host.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cadre::launch {

// Physical cores that this process may use; what Open MPI counts as slots.
int physical_cores();

// argv of `num_ranks` copies of `rank`. A lone rank needs no mpirun. Throws Error(kUsage) when mpirun is not
// in PATH.
std::vector<std::string> mpirun_command(int num_ranks, int cores, const std::vector<std::string>& rank);

// What the ranks' environment gets: one BLAS thread, since kernels are spread over the rank's own threads,
// and for root the permission that Open MPI asks for.
std::vector<std::pair<std::string, std::string>> rank_environment(bool root);

// As one would type it.
std::string shell_line(const std::vector<std::string>& command);

}  // namespace cadre::launch
