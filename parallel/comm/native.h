// A transport's own collectives, for benchmarks beside ours: NCCL's for GPUs. Training does not use them: their sums
// come in an order that the library chooses.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace cadre::comm {

struct NativeCollective {
  std::string name;
  double wire_share = 0;  // of the bytes, what each rank has to send at least
  // `bytes` of bf16 in all, in device memory; ordered with the queue on both ends.
  std::function<void(std::byte* send, std::byte* receive, int64_t bytes, device::Queue& queue)> run;
};
// Empty for transports without.
std::vector<NativeCollective> native_collectives(Communicator& communicator);

}  // namespace cadre::comm
