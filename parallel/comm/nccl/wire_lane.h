// A stream that goes on no sooner than data would have come over an imitated wire. A thread of the host keeps the time: the
// stream tells it when it begins, and waits for its word that time is over, by operations that take no place on a
// multiprocessor, as copy engines take none. What else of the wire costs is not imitated.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "parallel/comm/imitated_wire.h"

namespace cadre::comm::nccl {

class WireLane {
 public:
  explicit WireLane(const ImitatedWire& wire);  // borrowed
  ~WireLane();                                  // lets go whoever waits still
  WireLane(const WireLane&) = delete;
  WireLane& operator=(const WireLane&) = delete;
  // What `stream` is given after end() comes no sooner than `bytes` take after what it was given before begin(). In pairs.
  void begin(cudaStream_t stream, size_t bytes);
  void end(cudaStream_t stream);

 private:
  class Clock;
  struct State;
  const ImitatedWire& wire_;
  std::shared_ptr<Clock> clock_;  // one for all lanes
  std::unique_ptr<State> state_;
  bool timed_ = false;  // between begin() and end()
};

}  // namespace cadre::comm::nccl
