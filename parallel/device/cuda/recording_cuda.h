// Recordings as CUDA graphs, captured from the queue's stream.
#pragma once

#include <memory>

#include "parallel/device/recording.h"

namespace cadre::device::cuda {

// Of a CudaQueue.
std::unique_ptr<Recording> make_recording_cuda(Queue& queue);

}  // namespace cadre::device::cuda
