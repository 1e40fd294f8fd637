// The transports behind World: MPI or TCP between processes, and mailboxes between the threads of one process. Beside
// them the one that moves the memory of GPUs.
#pragma once

#include <memory>

#include "parallel/comm/imitated_wire.h"
#include "parallel/comm/mesh.h"
#include "parallel/device/peer.h"

namespace cadre::comm {

std::unique_ptr<World> make_mpi_world(int* argc,
                                      char*** argv);  // initialises MPI; finalises it when destroyed
std::unique_ptr<World> make_local_world();            // one rank, no MPI
// Ranks that meet at `meeting` (tcp_mesh.h). Throws Error(kComm) when not all have come in time.
std::unique_ptr<World> make_tcp_world(int rank, int ranks, const std::string& meeting,
                                      std::chrono::milliseconds timeout);
std::unique_ptr<Communicator> make_local_communicator(const std::string& name);
// Rank 0 of `ranks`, the others imitated: it sends nothing, and takes them to be on this host. With a wire, which is borrowed, what
// a GPU would get from them comes no sooner than over that.
std::unique_ptr<World> make_imitated_world(int ranks, const ImitatedWire* wire = nullptr);
// The wire of a communicator of such a world; null without one, and for all others.
const ImitatedWire* imitated_wire(const Communicator& communicator);

// The ranks of `host` with the memory of this queue's device: NCCL. Collective over the group, which `host` serves
// to meet; it and the queue outlive the result. When a collective hangs or fails, `world` is aborted with exit code
// 5. Throws Error(kUsage) when this build has no such transport.
std::unique_ptr<Communicator> make_device_communicator(Communicator& host, device::Queue& queue,
                                                       World& world);
// A port whose copies out of its region, of that many bytes, take as long as over the wire; on the CPU they do not.
std::unique_ptr<device::PeerPort> time_reads(std::unique_ptr<device::PeerPort> port, device::DeviceKind kind,
                                             size_t bytes, const ImitatedWire& wire);

}  // namespace cadre::comm
