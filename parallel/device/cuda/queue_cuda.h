// A CUDA stream as a Queue.
#pragma once

#include <cuda_runtime_api.h>

#include "parallel/device/queue.h"

namespace cadre::device::cuda {

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

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace cadre::device::cuda
