// Work that a queue is given again and again with the same arguments: kernels, fills and copies inside the device. What
// differs from one time to the next lies in device memory. An accelerator records it and launches the record as a whole,
// which spares the host a launch for every kernel and the device the gaps between them; the CPU just does it.
#pragma once

#include <absl/functional/function_ref.h>

#include <memory>

#include "parallel/device/queue.h"

namespace cadre::device {

class Recording {
 public:
  virtual ~Recording() = default;
  // Queues the work. body() queues it piece by piece. The CPU calls it every time. An accelerator calls it the first time,
  // when libraries choose their algorithms and memory is taken, once more to record it, and then no more: so it must
  // queue the same each time, neither upload nor download nor wait, and leave nothing on the host that anybody needs.
  // What cannot be recorded goes on being called, and the log says why.
  virtual void run(absl::FunctionRef<void()> body) = 0;
};

// The queue is borrowed; memory that the work uses must stay where it is for as long as the recording is run.
std::unique_ptr<Recording> make_recording(Queue& queue);

}  // namespace cadre::device
