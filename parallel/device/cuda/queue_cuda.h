// A CUDA stream as a Queue.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <vector>

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
  // Through pinned memory of this queue, so that the host goes on at once. When that is full, they wait.
  void upload(const void* host, void* device, size_t bytes) override;
  void download(const void* device, void* host, size_t bytes) override;
  void zero(void* device, size_t bytes) override;
  cudaStream_t stream() const { return stream_; }
  int64_t waits() const { return waits_; }  // of the host so far
  // Recordings that were launched as a whole so far.
  int64_t replays() const { return replays_; }
  void add_replay() { ++replays_; }
  // While the stream is captured: copies to and from the host are then refused, as their pinned memory is for one time.
  void set_capturing(bool capturing) { capturing_ = capturing; }
  KernelState& state() { return *state_; }

 private:
  struct Arrival {  // of a download: from pinned memory to where it was wanted
    const std::byte* from;
    void* to;
    size_t bytes;
  };
  std::byte* stage(size_t bytes);

  cudaStream_t stream_ = nullptr;
  std::byte* pinned_ = nullptr;
  size_t pinned_used_ = 0;
  int64_t waits_ = 0, replays_ = 0;
  bool capturing_ = false;
  std::vector<Arrival> arrivals_;
  std::unique_ptr<KernelState> state_;
};

}  // namespace cadre::device::cuda
