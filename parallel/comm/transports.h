// The transports behind World: MPI between processes, and mailboxes between the threads of one process.
#pragma once

#include <memory>

#include "parallel/comm/mesh.h"

namespace cadre::comm {

std::unique_ptr<World> make_mpi_world(int* argc,
                                      char*** argv);  // initialises MPI; finalises it when destroyed
std::unique_ptr<World> make_local_world();            // one rank, no MPI
std::unique_ptr<Communicator> make_local_communicator(const std::string& name);

}  // namespace cadre::comm
