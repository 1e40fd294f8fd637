// Collectives between GPUs through NCCL. Each communicator has a stream of its own: a call makes it wait for what the
// queue was given so far, and records an event at its end, which Request::then() lets the queue wait for. A Watchdog
// follows the events, with ncclCommGetAsyncError, and ends the world with exit code 5.
//
// NCCL moves the data, and copy engines what stands in shared memory of one host's GPUs (peer_windows.h). Sums are made here:
// parts come from all ranks and are added in rank order, bf16 in fp32, as every transport promises. NVLink multicast and
// everything else of NCCL's environment is left as it is set.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/comm/native.h"
#include "parallel/comm/nccl/events.h"
#include "parallel/comm/nccl/peer_windows.h"
#include "parallel/comm/nccl/wire_lane.h"
#include "parallel/comm/watchdog.h"
#include "parallel/device/memory.h"

namespace cadre::device::cuda {
class CudaQueue;
}

namespace cadre::comm::nccl {

class NcclCommunicator final : public Communicator {
 public:
  // Collective over `host`, which gives the ranks and carries what they have to tell each other. `queue` is a CUDA queue of
  // the thread's current device; both are borrowed. abort(5) is called from another thread when a collective fails.
  // With a `host` in imitation it imitates for good, and NCCL is not asked.
  NcclCommunicator(Communicator& host, device::Queue& queue, std::function<void(int)> abort);
  ~NcclCommunicator() override;
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Request all_to_all(const void* send, std::span<const int64_t> send_counts,
                     std::span<const int64_t> send_displs, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override;
  Request all_gather(const void* send, int64_t send_count, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override;
  Request broadcast(void* data, int64_t count, int root, Dtype dtype, std::string_view label) override;
  void begin_together() override;
  void end_together() override;
  void share(std::byte* data, size_t bytes) override;
  void end_sharing() override;
  bool copies(const void* data) const override;

  // For benchmarks of NCCL's own collectives: start() gives one to the stream, after the queue's work so far, and the
  // queue goes on after it.
  ncclComm_t handle() const { return comm_; }
  cudaStream_t stream() const { return stream_; }
  void run_native(const std::function<ncclResult_t()>& start, device::Queue& queue);

 protected:
  bool in_host_memory() const override { return false; }
  Request start_reduction(const void* send, std::span<const int64_t> cuts, void* receive, Dtype dtype,
                          ReduceOp op, std::string_view label) override;

 private:
  static constexpr size_t kHalf = size_t(64) << 20;  // of the staging memory
  class Waiting;
  struct Staged;
  struct Call {
    std::shared_ptr<CUevent_st> done;
    std::string label;
    uint64_t in_box = 0;
    std::atomic<bool> given = false;  // to the stream, with `done` behind it
  };
  // The watchdog knows of a call before NCCL does: the first ones of a kind wait for other ranks inside NCCL.
  std::shared_ptr<Call> begin(const char* verb, std::string_view label, uint64_t bytes);
  Request end(std::shared_ptr<Call> call);
  void close(Call& call);
  void copy(void* to, const void* from, size_t bytes);
  void reserve_staging();
  // Of imitated transfers, around their copies: that many bytes come.
  void begin_transfer(size_t bytes);
  void end_transfer();
  void echo_all_gather(const void* send, int64_t send_count, void* receive,
                       std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                       Dtype dtype);
  void check(ncclResult_t result, std::string_view label) const;
  void fetch(void* to, const void* from, int peer, size_t bytes);
  void reduce_part(const Staged& staged, int64_t begin, int half, std::string_view label);

  Communicator& host_;
  device::cuda::CudaQueue& queue_;
  int rank_, size_, device_ = 0;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr, sum_stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  std::array<cudaEvent_t, 2> arrived_{}, summed_{};  // by half of the staging memory
  device::Buffer staging_;                           // two halves
  std::shared_ptr<EventPool> events_ = std::make_shared<EventPool>();
  std::unique_ptr<WireLane> lane_;  // of an imitated wire
  std::unique_ptr<PeerWindows> windows_;
  bool no_windows_ = false;                      // between these ranks
  std::vector<std::shared_ptr<Call>> together_;  // calls since begin_together()
  bool open_ = false;
  std::unique_ptr<Watchdog> watchdog_;
};

std::vector<NativeCollective> native_of(NcclCommunicator& communicator);

}  // namespace cadre::comm::nccl
