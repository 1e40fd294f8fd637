// Copies of device memory in host memory that are made beside the queue's work: what a checkpoint needs to hold while
// training goes on.
#pragma once

#include <cstddef>
#include <memory>

#include "parallel/device/queue.h"

namespace cadre::device {

class Snapshot {
 public:
  virtual ~Snapshot() = default;
  // Takes the host memory that a snapshot of so many bytes needs. begin() does so too, but that may take seconds.
  virtual void reserve(size_t bytes) = 0;
  // Begins a new one, of what `queue` has made when it has done what it was given so far. Returns `bytes` of host memory
  // for the copies, valid until the next begin().
  virtual std::byte* begin(Queue& queue, size_t bytes) = 0;
  virtual void copy(const void* device, std::byte* host, size_t bytes) = 0;
  virtual void end() = 0;
  // What `queue` is given from now on comes after the copies: before it changes what is copied.
  virtual void hold(Queue& queue) = 0;
  // Until the copies are there. After end(), from any thread.
  virtual void wait() = 0;
};
// For memory of this device. Throws Error(kUsage) when this build has no backend for it.
std::unique_ptr<Snapshot> make_snapshot(DeviceKind kind);

}  // namespace cadre::device
