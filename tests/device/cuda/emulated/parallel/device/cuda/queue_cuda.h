// Stands for parallel/device/cuda/queue_cuda.h on the host: a queue whose work is done when a launch returns, in memory of
// grid.h.
#pragma once

#include <cuda_runtime.h>

#include "parallel/device/queue.h"

namespace cadre::emulated {

class EmulatedQueue final : public device::Queue {
 public:
  device::DeviceKind kind() const override { return device::DeviceKind::kCuda; }
  void wait() override {}
  void upload(const void* host, void* device, size_t bytes) override { std::memcpy(device, host, bytes); }
  void download(const void* device, void* host, size_t bytes) override { std::memcpy(host, device, bytes); }
  void zero(void* device, size_t bytes) override { std::memset(device, 0, bytes); }
  cudaStream_t stream() const { return nullptr; }

  struct Scratch {
    std::byte* take(size_t bytes) { return take_memory(bytes); }
  };
  struct State {
    Scratch scratch;
  };
  State& state() { return state_; }

 private:
  State state_;
};

}  // namespace cadre::emulated

namespace cadre::device::cuda {
using CudaQueue = emulated::EmulatedQueue;
}  // namespace cadre::device::cuda
