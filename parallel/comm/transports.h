// The transports behind World: MPI or TCP between processes, and mailboxes between the threads of one process. Beside
// them the one that moves the memory of GPUs.
#pragma once

#include <memory>

#include "parallel/comm/mesh.h"

namespace cadre::comm {

std::unique_ptr<World> make_mpi_world(int* argc,
                                      char*** argv);  // initialises MPI; finalises it when destroyed
std::unique_ptr<World> make_local_world();            // one rank, no MPI
// Ranks that meet at `meeting` (tcp_mesh.h). Throws Error(kComm) when not all have come in time.
std::unique_ptr<World> make_tcp_world(int rank, int ranks, const std::string& meeting,
                                      std::chrono::milliseconds timeout);
std::unique_ptr<Communicator> make_local_communicator(const std::string& name);
// Rank 0 of `ranks`, the others imitated: it sends nothing, and takes them to be on this host.
std::unique_ptr<World> make_imitated_world(int ranks);

// The ranks of `host` with the memory of this queue's device: NCCL. Collective over the group, which `host` serves
// to meet; it and the queue outlive the result. When a collective hangs or fails, `world` is aborted with exit code
// 5. Throws Error(kUsage) when this build has no such transport.
std::unique_ptr<Communicator> make_device_communicator(Communicator& host, device::Queue& queue,
                                                       World& world);

}  // namespace cadre::comm
