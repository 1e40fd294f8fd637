#include "parallel/comm/nccl/events.h"

#include "parallel/device/cuda/check.h"

namespace cadre::comm::nccl {

namespace gpu = device::cuda;

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  gpu::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void order(cudaStream_t first, cudaEvent_t event, cudaStream_t then) {
  gpu::check(cudaEventRecord(event, first));
  gpu::check(cudaStreamWaitEvent(then, event, 0));
}

bool finished(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) return false;
  gpu::check(status);
  return true;
}

EventPool::~EventPool() {
  for (const cudaEvent_t event : free_) cudaEventDestroy(event);
}

std::shared_ptr<CUevent_st> EventPool::take(const std::shared_ptr<EventPool>& self) {
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      event = free_.back();
      free_.pop_back();
    }
  }
  if (event == nullptr) event = make_event();
  return {event, [self](cudaEvent_t used) {
            const std::lock_guard lock(self->mutex_);
            self->free_.push_back(used);
          }};
}

}  // namespace cadre::comm::nccl
