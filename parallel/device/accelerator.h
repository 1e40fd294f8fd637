// The accelerators that this build has, as a table of functions: memory, queues, recordings, snapshots; kernels have
// tables of their own (kernels.h of each layer). The CPU is not in it, being always there. accelerator.cc lists the
// table, of the backends that were built (backends.h).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "parallel/device/delivery.h"
#include "parallel/device/kernel_trace.h"
#include "parallel/device/peer.h"
#include "parallel/device/queue.h"
#include "parallel/device/recording.h"
#include "parallel/device/snapshot.h"

namespace cadre::device {

// What the machine offers right now. Never throws: a missing driver is an answer.
struct Probe {
  int num_devices = 0;  // that this build's code runs on
  std::string report;   // one line: the devices, or why there is none and what to do
};

struct DeviceMemory {
  size_t free = 0, total = 0;  // bytes of the current device
};

struct AttentionShape;  // kernels.h

struct Accelerator {
  DeviceKind kind;
  const char* name;  // as in a run file: "cuda"
  Probe (*probe)();
  std::unique_ptr<Queue> (*make_queue)(int device);
  std::byte* (*allocate)(
      size_t bytes);  // zero-filled, at least 64-byte aligned; throws Error(kUsage) when it does not fit
  void (*release)(std::byte* data) noexcept;
  DeviceMemory (*memory)();
  std::unique_ptr<Snapshot> (*make_snapshot)();  // of the current device
  std::unique_ptr<PeerPort> (*make_peer_port)(size_t bytes);
  std::unique_ptr<Recording> (*make_recording)(Queue&);
  std::unique_ptr<Delivery> (*make_delivery)(Queue&);
  TraceStart (*trace_kernels)();  // of the current device; never throws
  // Bytes of device memory that the queue takes for attention of the shape in bf16 (and its backward pass), beside the
  // arguments. May take long, as it prepares what will be needed.
  int64_t (*attention_workspace)(Queue&, const AttentionShape&, bool backward);
  size_t library_bytes;  // of device memory that libraries and small kernels take beside what a plan counts
  double
      peak_flops;  // of a dense bf16 product, from the data sheet of the H100: what shares of a peak are over
};
const std::vector<Accelerator>& accelerators();

// Throws Error(kUsage) when this build has no backend for it.
const Accelerator& accelerator(DeviceKind kind);

}  // namespace cadre::device
