// Snapshots of GPU memory: copies to pinned memory on a stream of their own.
#pragma once

#include <memory>

#include "parallel/device/snapshot.h"

namespace cadre::device::cuda {

// For the calling thread's current device.
std::unique_ptr<Snapshot> make_snapshot_cuda();

}  // namespace cadre::device::cuda
