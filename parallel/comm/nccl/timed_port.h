// A port of peer memory whose reads of a region take as long as over an imitated wire.
#pragma once

#include <memory>

#include "parallel/comm/imitated_wire.h"
#include "parallel/device/peer.h"

namespace cadre::comm::nccl {

// `bytes` of region; the wire is borrowed. On CUDA.
std::unique_ptr<device::PeerPort> make_timed_port(std::unique_ptr<device::PeerPort> port, size_t bytes,
                                                  const ImitatedWire& wire);

}  // namespace cadre::comm::nccl
