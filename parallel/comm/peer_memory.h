// A region of memory on each rank of a group on one host, which all of them read without the host's help. Ranks go
// through it in rounds: a rank writes its own region, signals, awaits the signals of all ranks of the same round, and reads
// theirs. Nobody writes a region but its rank, so what arrives needs no place agreed beforehand.
//
// So whoever writes the part below a boundary in one round and the part above it in the next may go on like that: the
// await of the round in between says that all ranks have read what is written over.
//
// Rounds of one lane come in the order of one queue at a time (a fork counts as its queue). Rounds of the other lane may come
// before or after them, for what need not wait behind a long copy.
//
// Like collectives, rounds come in one order on all ranks. On a device nothing waits on the host: a watchdog follows the
// rounds and ends the world with exit code 5 when a rank does not come within the group's timeout.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/device/peer.h"

namespace cadre::comm {

class Watchdog;
class World;

class PeerMemory {
 public:
  // Takes nothing yet. The ranks are those of `host`, which carries what they have to tell each other; both are borrowed.
  PeerMemory(Communicator& host, World& world);
  // Collective when there is a region, but for a rank that an exception leaves.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  int rank() const { return host_.rank(); }
  int size() const { return host_.size(); }

  // The largest region that was asked for since forget(): for adding up what a run will take.
  void want(size_t bytes) { wanted_ = std::max(wanted_, bytes); }
  size_t wanted() const { return wanted_; }
  void forget() { wanted_ = 0; }
  // Regions of at least `bytes` for this queue's device, with nothing under way. A larger one than before loses what was in
  // it. Collective, with the same number on all ranks. Throws Error(kUsage) on all of them when one cannot read another.
  void reserve(device::Queue& queue, size_t bytes);

  // Whether reserve() of some memory succeeds. Collective the first time.
  bool reachable(device::Queue& queue);

  // The region of a rank of the group, as this rank reaches it; aligned to 256 bytes. Valid until the next reserve().
  std::byte* at(int rank) const;
  // Before writing: users of one region that divide it at different places are kept apart by a round of its own.
  void enter(device::Queue& queue, size_t boundary);
  // Begins a round: what the queue was given so far is there for those who await it. `bytes` is what this rank offers.
  void signal(device::Queue& queue, std::string_view label, uint64_t bytes, int lane = 0);
  // What `queue` is given from now on comes after the signals of all ranks of this round. It may be a fork.
  void await(device::Queue& queue, int lane = 0);
  // See device::PeerPort.
  void copy(device::Queue& queue, void* to, const void* from, size_t bytes) {
    port_->copy(queue, to, from, bytes);
  }
  device::Queue& fork(device::Queue& queue) { return port_->fork(queue); }
  void join(device::Queue& queue) { port_->join(queue); }

  // See Communicator::set_imitation: all regions are this rank's own, and nobody waits. So it is from the beginning with a
  // `host` in imitation.
  void set_imitation(bool on) { imitation_ = on; }

 private:
  void connect(device::Queue& queue, size_t bytes);
  void leave();
  uint64_t* flags_of(int rank, int lane) const;
  std::unique_ptr<Watchdog> make_watchdog(device::DeviceKind kind);

  Communicator& host_;
  World& world_;
  size_t wanted_ = 0, bytes_ = 0;
  size_t boundary_ = 0;  // of the last user; 0: none yet
  uint64_t round_[device::kPeerLanes] = {};
  bool imitation_ = false;
  std::optional<bool> reachable_;
  std::unique_ptr<device::PeerPort> port_;
  std::vector<std::byte*> regions_;     // by rank, flags first
  std::unique_ptr<Watchdog> watchdog_;  // on devices; knows the port
};

}  // namespace cadre::comm
