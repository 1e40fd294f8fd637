// NCCL as the transport for the memory of devices.
#include "parallel/comm/nccl/nccl_communicator.h"
#include "parallel/comm/nccl/timed_port.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {

std::unique_ptr<Communicator> make_device_communicator(Communicator& host, device::Queue& queue,
                                                       World& world) {
  require(queue.kind() == device::DeviceKind::kCuda, ExitCode::kUsage,
          "NCCL moves the memory of NVIDIA GPUs only; set device: cpu");
  return std::make_unique<nccl::NcclCommunicator>(host, queue, [&world](int code) { world.abort(code); });
}

std::unique_ptr<device::PeerPort> time_reads(std::unique_ptr<device::PeerPort> port, device::DeviceKind kind,
                                             size_t bytes, const ImitatedWire& wire) {
  if (kind != device::DeviceKind::kCuda) return port;
  return nccl::make_timed_port(std::move(port), bytes, wire);
}

std::vector<NativeCollective> native_collectives(Communicator& communicator) {
  if (auto* nccl = dynamic_cast<nccl::NcclCommunicator*>(&communicator)) return nccl::native_of(*nccl);
  return {};
}

}  // namespace cadre::comm
