// Ports on GPUs of one host (parallel/device/peer.h): CUDA's interprocess memory handles between processes, plain
// pointers between threads of one.
#pragma once

#include <memory>

#include "parallel/device/peer.h"

namespace cadre::device::cuda {

std::unique_ptr<PeerPort> make_peer_port_cuda(size_t bytes);

}  // namespace cadre::device::cuda
