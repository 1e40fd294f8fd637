#include "parallel/device/cuda/delivery_cuda.h"

#include <cuda_runtime_api.h>

#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::device::cuda {
namespace {

class CudaDelivery final : public Delivery {
 public:
  explicit CudaDelivery(CudaQueue& queue) : queue_(queue) {
    check(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming));
  }
  // A copy that is still on its way must not write to memory that is no longer there.
  ~CudaDelivery() override {
    cudaEventSynchronize(arrived_);
    cudaEventDestroy(arrived_);
    cudaFreeHost(pinned_);
  }
  CudaDelivery(const CudaDelivery&) = delete;
  CudaDelivery& operator=(const CudaDelivery&) = delete;

  void start(const void* device, size_t bytes) override {
    if (bytes > capacity_) reserve(2 * bytes);
    if (bytes > 0) check(cudaMemcpyAsync(pinned_, device, bytes, cudaMemcpyDeviceToHost, queue_.stream()));
    check(cudaEventRecord(arrived_, queue_.stream()));
  }
  const std::byte* wait() override {
    check(cudaEventSynchronize(arrived_));
    return pinned_;
  }

 private:
  void reserve(size_t bytes) {
    capacity_ = 0;
    check(cudaFreeHost(pinned_));
    pinned_ = nullptr;
    void* memory = nullptr;
    check(cudaMallocHost(&memory, bytes));
    pinned_ = static_cast<std::byte*>(memory);
    capacity_ = bytes;
  }

  CudaQueue& queue_;
  cudaEvent_t arrived_ = nullptr;
  std::byte* pinned_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace

std::unique_ptr<Delivery> make_delivery_cuda(Queue& queue) {
  return std::make_unique<CudaDelivery>(static_cast<CudaQueue&>(queue));
}

}  // namespace cadre::device::cuda
