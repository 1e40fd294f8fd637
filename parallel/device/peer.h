// Memory that the devices of one host's ranks read from each other, and the flags that put their queues in order, with
// no host in between. parallel/comm/peer_memory.h is what others use: it brings the ports of a group together.
//
// The flags follow the memory models of C++ and PTX: a signal is a release store, for the whole system, that comes
// after the queue's work, and an await is acquire loads until the number is there. Numbers only grow, so no flag is
// ever set back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "parallel/device/queue.h"

namespace cadre::device {

inline constexpr int kMostPeers = 32;   // ranks of a group
inline constexpr int kFlagStride = 16;  // words from one flag to the next: each has a cache line of a GPU
// Numbers of one lane come in the order of one queue; those of another lane may overtake them.
inline constexpr int kPeerLanes = 2;

// What CUDA shares between processes is whole pages of this size, with whatever else lies in them.
inline constexpr size_t kPeerPage = size_t(2) << 20;

class PeerPort {
 public:
  virtual ~PeerPort() = default;
  // This rank's region, zero-filled at the start.
  virtual std::byte* data() const = 0;
  // What other ranks open an allocation of this rank's device by: bytes for the way there. On a GPU it should be whole pages
  // (kPeerPage).
  virtual std::string handle_of(const std::byte* allocation) const = 0;
  // The memory behind a handle, as this rank's device reaches it. Throws Error(kUsage) with what stands in the way: another
  // host, or two GPUs that cannot read each other.
  virtual std::byte* open(const std::string& handle) = 0;
  // Waits for the device and closes what was opened. All ranks close before any port goes.
  virtual void close() = 0;
  // The region stays until the process ends, since ranks that did not close may still read it.
  virtual void abandon() = 0;

  // Stores `number` in flags of other regions when the queue has done what it was given so far; whoever sees the
  // number sees that too.
  virtual void signal(Queue& queue, std::span<uint64_t* const> flags, uint64_t number) = 0;
  // What `queue` is given from now on comes after `count` flags of this region, kFlagStride apart, reached `number`. When
  // one has not after `timeout`, host memory throws Error(kComm); a device notes it in missing(), goes on with what
  // is there, and waits for nothing any more.
  virtual void await(Queue& queue, int lane, const uint64_t* flags, int count, uint64_t number,
                     std::chrono::milliseconds timeout) = 0;
  // From any thread: the last number of a lane that was awaited and came, and the flag that did not come in time (-1: none).
  virtual uint64_t reached(int lane) const = 0;
  virtual int missing() const = 0;

  // Between any two places that this device reaches, in order with the queue; a GPU's copy engines do it, so that kernels
  // beside it keep all multiprocessors.
  virtual void copy(Queue& queue, void* to, const void* from, size_t bytes) = 0;
  // A queue for work beside `queue`, beginning after what that was given so far; join() lets `queue` go on after it. In host
  // memory they are one.
  virtual Queue& fork(Queue& queue) = 0;
  virtual void join(Queue& queue) = 0;
};

// On the calling thread's current device. Throws Error(kUsage) when the memory does not fit or this build has no such
// backend.
std::unique_ptr<PeerPort> make_peer_port(DeviceKind kind, size_t bytes);

}  // namespace cadre::device
