// The transports for the memory of devices, and the only place that knows which ones were built.
#include "parallel/comm/native.h"
#include "parallel/comm/transports.h"

#if CADRE_NCCL
#include "parallel/comm/nccl/nccl_communicator.h"
#endif

namespace cadre::comm {

std::unique_ptr<Communicator> make_device_communicator(Communicator& host, device::Queue& queue,
                                                       World& world) {
#if CADRE_NCCL
  if (queue.kind() == device::DeviceKind::kCuda)
    return std::make_unique<nccl::NcclCommunicator>(host, queue, [&world](int code) { world.abort(code); });
#endif
  (void)queue, (void)world;
  fail(ExitCode::kUsage,
       "found {} ranks on GPUs, but this build has no NCCL; install it (nccl.h and libnccl.so.2) and "
       "configure "
       "again with `cmake --preset cuda`, start one rank, or set device: cpu",
       host.size());
}

std::vector<NativeCollective> native_collectives(Communicator& communicator) {
#if CADRE_NCCL
  if (auto* nccl = dynamic_cast<nccl::NcclCommunicator*>(&communicator)) return nccl::native_of(*nccl);
#endif
  (void)communicator;
  return {};
}

}  // namespace cadre::comm
