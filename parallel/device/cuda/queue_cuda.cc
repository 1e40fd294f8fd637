#include "parallel/device/cuda/queue_cuda.h"

#include "parallel/base/errors.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/kernel_state.h"

namespace cadre::device::cuda {

CudaQueue::CudaQueue(int device) {
  const Probe probe = accelerator_cuda().probe();
  require(device >= 0 && device < probe.num_devices, ExitCode::kUsage, "no CUDA device {}: {}", device,
          probe.report);
  check(cudaSetDevice(device));
  // Not the default stream, whose implicit waits would serialise work that is meant to overlap.
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  state_ = std::make_unique<KernelState>();
}

CudaQueue::~CudaQueue() {
  cudaStreamDestroy(stream_);
}

void CudaQueue::wait() {
  check(cudaStreamSynchronize(stream_));
}

}  // namespace cadre::device::cuda
