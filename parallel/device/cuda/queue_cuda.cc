#include "parallel/device/cuda/queue_cuda.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/kernel_state.h"

namespace cadre::device::cuda {
namespace {

// What one step moves in small pieces fits many times; a larger copy goes in parts of half of it.
constexpr size_t kPinned = size_t(64) << 20, kPart = kPinned / 2, kAlignment = 256;

}  // namespace

CudaQueue::CudaQueue(int device) {
  const Probe probe = accelerator_cuda().probe();
  require(device >= 0 && device < probe.num_devices, ExitCode::kUsage, "device: cuda cannot use GPU {}: {}",
          device, probe.report);
  const cudaError_t status =
      cudaSetDevice(device);  // takes a context: a device that does not work says so here
  (void)cudaGetLastError();
  require(status == cudaSuccess, ExitCode::kUsage,
          "device: cuda cannot use GPU {}: {} ({}); look at nvidia-smi, or set device: cpu", device,
          cudaGetErrorString(status), cudaGetErrorName(status));
  // Not the default stream, whose implicit waits would serialise work that is meant to overlap.
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  state_ = std::make_unique<KernelState>();
  void* pinned = nullptr;
  check(cudaMallocHost(&pinned, kPinned));
  pinned_ = static_cast<std::byte*>(pinned);
}

CudaQueue::~CudaQueue() {
  state_.reset();  // its handles know the stream
  cudaStreamDestroy(stream_);
  cudaFreeHost(pinned_);
}

void CudaQueue::wait() {
  ++waits_;
  check(cudaStreamSynchronize(stream_));
  for (const Arrival& a : arrivals_) std::memcpy(a.to, a.from, a.bytes);
  arrivals_.clear();
  pinned_used_ = 0;
}

std::byte* CudaQueue::stage(size_t bytes) {
  if (capturing_) throw std::logic_error("it copies to or from the host");
  if (pinned_used_ + bytes > kPinned) wait();
  std::byte* at = pinned_ + pinned_used_;
  pinned_used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

void CudaQueue::upload(const void* host, void* device, size_t bytes) {
  for (size_t begin = 0; begin < bytes; begin += kPart) {
    const size_t count = std::min(kPart, bytes - begin);
    std::byte* staged = stage(count);
    std::memcpy(staged, static_cast<const std::byte*>(host) + begin, count);
    check(cudaMemcpyAsync(static_cast<std::byte*>(device) + begin, staged, count, cudaMemcpyHostToDevice,
                          stream_));
  }
}

void CudaQueue::download(const void* device, void* host, size_t bytes) {
  for (size_t begin = 0; begin < bytes; begin += kPart) {
    const size_t count = std::min(kPart, bytes - begin);
    std::byte* staged = stage(count);
    check(cudaMemcpyAsync(staged, static_cast<const std::byte*>(device) + begin, count,
                          cudaMemcpyDeviceToHost, stream_));
    arrivals_.push_back({staged, static_cast<std::byte*>(host) + begin, count});
  }
}

void CudaQueue::zero(void* device, size_t bytes) {
  check(cudaMemsetAsync(device, 0, bytes, stream_));
}

}  // namespace cadre::device::cuda
