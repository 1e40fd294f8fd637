// What work on a queue leaves for the host, who may wait for it alone while other work is queued behind it:
// Queue::download() is there only when everything is done.
#pragma once

#include <memory>

#include "parallel/device/queue.h"

namespace cadre::device {

class Delivery {
 public:
  virtual ~Delivery() = default;
  // Queues the copy. The one before must have been waited for.
  virtual void start(const void* device, size_t bytes) = 0;
  // Until the copy is there, and of the queue's other work what came before it. Valid until the next start().
  virtual const std::byte* wait() = 0;
};

// The queue is borrowed.
std::unique_ptr<Delivery> make_delivery(Queue& queue);

}  // namespace cadre::device
