// CUDA events: what orders streams, and tells the host that a collective is over.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

namespace cadre::comm::nccl {

cudaEvent_t make_event();
bool finished(cudaEvent_t event);  // throws what went wrong on the device
// What `then` is given from now on comes after what `first` was given so far.
void order(cudaStream_t first, cudaEvent_t event, cudaStream_t then);

// Events for reuse; taken by the rank's thread, given back by any.
class EventPool {
 public:
  ~EventPool();
  std::shared_ptr<CUevent_st> take(const std::shared_ptr<EventPool>& self);

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

}  // namespace cadre::comm::nccl
