// Deliveries through pinned memory and an event.
#pragma once

#include <memory>

#include "parallel/device/delivery.h"

namespace cadre::device::cuda {

// Of a CudaQueue.
std::unique_ptr<Delivery> make_delivery_cuda(Queue& queue);

}  // namespace cadre::device::cuda
