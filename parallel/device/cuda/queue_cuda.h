// A CUDA stream as a Queue.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "parallel/device/queue.h"

namespace cadre::device::cuda {

struct KernelState;

class CudaQueue final : public Queue {
 public:
  // Makes `device` the calling thread's device; a rank has one. Throws Error(kUsage) when there is no such
  // device.
  explicit CudaQueue(int device);
  ~CudaQueue() override;
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;
  DeviceKind kind() const override { return DeviceKind::kCuda; }
  // Also reports errors of kernels that ran since the last wait().
  void wait() override;
  cudaStream_t stream() const { return stream_; }
  KernelState& state() { return *state_; }

 private:
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<KernelState> state_;
};

}  // namespace cadre::device::cuda
