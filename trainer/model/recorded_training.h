// The recordings of a micro-batch's way through the layers, forward and back, by what the queued work depends on beside
// the device's memory. For models without experts on one rank: routers and balance losses get numbers from the host with
// every micro-batch, and other ranks' values and sums travel bucket by bucket.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "parallel/device/recording.h"

namespace cadre::trainer {

class RecordedTraining {
 public:
  struct Key {
    bool backward = false;
    bool adds = false;    // backward: to gradients that are there
    bool masked = false;  // by documents; which ones lies in the device's memory
    int64_t num_sequences = 0, seq_len = 0;
    auto operator<=>(const Key&) const = default;
  };

  // Null where a pass is to run as it is. rope: the place of the angles, which moves when generation covers more
  // positions; recordings of another one are dropped.
  device::Recording* find(device::Queue& queue, const void* rope, const Key& key) {
    if (queue.kind() == device::DeviceKind::kCpu) return nullptr;
    if (rope != rope_) clear();
    rope_ = rope;
    const auto found = passes_.find(key);
    if (found == passes_.end() && passes_.size() >= kMost) return nullptr;
    Pass& pass = passes_[key];
    if (++pass.seen <= kFirst) return nullptr;
    if (pass.recording == nullptr) pass.recording = device::make_recording(queue);
    return pass.recording.get();
  }
  // Whenever memory that the layers use has another place.
  void clear() { passes_.clear(); }

 private:
  // Products of a shape are tried once it was used often (parallel/device/cuda/gemm.cc), which nothing recorded can do:
  // so many passes are left to them, and one more, as a recording's first run is not recorded either.
  static constexpr int kFirst = 2;
  // Shapes of micro-batches; each takes a few MiB of the device.
  static constexpr size_t kMost = 8;
  struct Pass {
    int seen = 0;
    std::unique_ptr<device::Recording> recording;
  };
  std::map<Key, Pass> passes_;
  const void* rope_ = nullptr;
};

}  // namespace cadre::trainer
