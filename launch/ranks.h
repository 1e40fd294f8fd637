// How a verb runs on ranks and how a failure ends: one line on stderr and the exit code, and under mpirun the
// end of all ranks, since a rank that is left alone in a collective would wait for its timeout.
#pragma once

#include <functional>

#include "parallel/comm/mesh.h"

namespace cadre::launch {

// Runs body on this rank of the world that mpirun or srun started (one rank without them) and returns its
// exit code. Logging is set up for the rank. When body throws and there are other ranks, reports and aborts
// them all with the error's code; a lone rank's exception goes on to main().
int run_ranks(const std::function<int(comm::World&)>& body);

// Called in a catch block: prints "cadre: <message>" for the exception in flight, with "rank R of N: " when
// num_ranks > 1, and returns the process's exit code: an Error's own, 1 for anything else.
int report_failure(int rank = 0, int num_ranks = 1);

}  // namespace cadre::launch
