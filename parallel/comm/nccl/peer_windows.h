// Memory of the ranks of a group that each other's GPUs reach, and signals between their streams: what collectives need to
// travel by copy engines, over NVLink or PCIe, and leave all multiprocessors to the kernels beside them. Signals and waits are
// operations of the stream (CUDA driver API, "Stream Memory Operations"), so that not even a wait takes a place.
//
// A window is memory of the same length on all ranks, in the same layout.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/device/peer.h"

namespace cadre::comm::nccl {

class PeerWindows {
 public:
  // Collective over `host`, which is borrowed; on the thread's current device. Tries signals and copies between all ranks, and
  // gives null to all where some do not come through: ranks on several hosts, GPUs without peer access.
  static std::unique_ptr<PeerWindows> connect(Communicator& host);
  // Collective, after the last copy, but for a rank that an exception leaves: that waits for nobody any more.
  ~PeerWindows();

  // Collective. `data` is the beginning of an allocation, and stays until the windows are gone. Throws Error(kComm) on all ranks
  // or none.
  void add(std::byte* data, size_t bytes);
  // Where a place of this rank's windows is in those of `peer`; null outside them.
  const std::byte* at(const void* data, int peer) const;

  // What `stream` is given from now on comes after what the streams of all ranks were given before they met.
  void meet(cudaStream_t stream);

 private:
  struct Window {
    const std::byte* data;
    size_t bytes;
    std::vector<const std::byte*> of;  // by rank
  };
  explicit PeerWindows(Communicator& host) : host_(host) {}
  // `all`: the same allocation of every rank, as this one reaches it. What stands in the way on some rank; empty: nothing.
  std::string open_all(std::byte* own, std::vector<std::byte*>& all);
  void try_out();
  uint64_t* flag(int of, int from) const;
  // What is queued here waits no more.
  void let_go();
  void leave();

  Communicator& host_;
  std::unique_ptr<device::PeerPort> port_;  // a flag a rank; the numbers of try_out()
  std::vector<std::byte*> regions_;
  std::vector<Window> windows_;
  uint64_t round_ = 0;
};

}  // namespace cadre::comm::nccl
