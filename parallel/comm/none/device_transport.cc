// A build without a transport for the memory of devices.
#include "parallel/comm/native.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {

std::unique_ptr<Communicator> make_device_communicator(Communicator& host, device::Queue&, World&) {
  fail(ExitCode::kUsage,
       "found {} ranks on GPUs, but this build has no NCCL; install it (nccl.h and libnccl.so.2) and "
       "configure "
       "again with `cmake --preset cuda`, start one rank, or set device: cpu",
       host.size());
}

std::unique_ptr<device::PeerPort> time_reads(std::unique_ptr<device::PeerPort> port, device::DeviceKind,
                                             size_t, const ImitatedWire&) {
  return port;
}

std::vector<NativeCollective> native_collectives(Communicator&) {
  return {};
}

}  // namespace cadre::comm
