// The two kernels that put the queues of different GPUs in order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "parallel/device/peer.h"

namespace cadre::device::cuda {

// In pinned host memory: the device writes, the host reads.
struct PeerStatus {
  uint64_t reached[kPeerLanes];  // the last number awaited that came
  uint64_t missing;              // 1 + the flag that did not come in time; 0: none
};

// flags: at most kMostPeers.
void signal_flags(cudaStream_t stream, std::span<uint64_t* const> flags, uint64_t number);
void await_flags(cudaStream_t stream, int lane, const uint64_t* flags, int count, uint64_t number,
                 uint64_t timeout_ns, PeerStatus* status);

}  // namespace cadre::device::cuda
