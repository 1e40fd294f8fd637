#include "parallel/device/cuda/snapshot_cuda.h"

#include <cuda_runtime_api.h>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::device::cuda {
namespace {

class CudaSnapshot final : public Snapshot {
 public:
  CudaSnapshot() {
    check(cudaGetDevice(&device_));
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    check(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
    // The thread that writes sleeps until the copies are there.
    check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming | cudaEventBlockingSync));
  }
  ~CudaSnapshot() override {
    cudaStreamSynchronize(stream_);
    cudaFreeHost(pinned_);
    cudaEventDestroy(ready_);
    cudaEventDestroy(done_);
    cudaStreamDestroy(stream_);
  }

  void reserve(size_t bytes) override {
    if (bytes <= bytes_) return;
    check(cudaStreamSynchronize(stream_));
    check(cudaFreeHost(pinned_));
    pinned_ = nullptr;
    bytes_ = 0;
    void* memory = nullptr;
    const cudaError_t status = cudaMallocHost(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      fail(ExitCode::kCheckpoint,
           "a checkpoint needs {:.1f} GiB of pinned host memory for this rank's part, and the host does not "
           "give "
           "them; use more ranks or hosts",
           double(bytes) / 0x1p30);
    }
    check(status);
    pinned_ = static_cast<std::byte*>(memory);
    bytes_ = bytes;
  }
  std::byte* begin(Queue& queue, size_t bytes) override {
    reserve(bytes);
    check(cudaEventRecord(ready_, static_cast<CudaQueue&>(queue).stream()));
    check(cudaStreamWaitEvent(stream_, ready_, 0));
    return pinned_;
  }
  void copy(const void* device, std::byte* host, size_t bytes) override {
    if (bytes > 0) check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
  }
  void end() override {
    check(cudaEventRecord(done_, stream_));
    held_ = false;
  }
  void hold(Queue& queue) override {
    if (!held_) check(cudaStreamWaitEvent(static_cast<CudaQueue&>(queue).stream(), done_, 0));
    held_ = true;
  }
  void wait() override {
    check(cudaSetDevice(device_));  // of this thread
    check(cudaEventSynchronize(done_));
  }

 private:
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr, done_ = nullptr;
  std::byte* pinned_ = nullptr;
  size_t bytes_ = 0;
  bool held_ = true;  // the queue waits for the last one's copies already, or there was none
};

}  // namespace

std::unique_ptr<Snapshot> make_snapshot_cuda() {
  return std::make_unique<CudaSnapshot>();
}

}  // namespace cadre::device::cuda
