// Collectives as values. A Communicator is a group of ranks that make the same calls in the same order; MPI and
// threads of one process (tests) implement it for host memory, NCCL for the memory of GPUs. Counts are in
// elements. Every call carries a label and a timeout, so that a hang ends as one line that names the collective,
// and exit code 5.
//
// A communicator of a device belongs to one queue: a collective starts after everything that the queue was given
// before the call, and runs beside what it is given later, until Request::then() or wait().
//
// Reductions add in rank order 0, 1, 2, ... in the element's own type, whatever the transport: the result
// depends on the values and the number of ranks, and on nothing else.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/base/errors.h"
#include "parallel/device/bf16.h"
#include "parallel/device/queue.h"

namespace cadre::comm {

enum class Dtype { kByte, kInt32, kInt64, kBf16, kFloat, kDouble };  // bf16 on devices only
size_t size_of(Dtype dtype);
template <class T>
constexpr Dtype dtype_of();

enum class ReduceOp { kSum, kMax, kMin };

// A collective under way. The buffers it was given must live until wait() returned. wait() throws
// Error(kComm) after the timeout or when a peer is gone. test() gives the transport a chance to move data;
// compute loops call it now and then.
class Request {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual bool test() = 0;
    virtual void wait() = 0;
    virtual void then(device::Queue& queue) { (void)queue, wait(); }
  };
  Request() = default;  // already done
  explicit Request(std::unique_ptr<State> state) : state_(std::move(state)) {}
  bool test() {
    if (state_ && state_->test()) state_.reset();
    return !state_;
  }
  void wait() {
    if (state_) state_->wait();
    state_.reset();
  }
  // What `queue` is given from now on comes after the collective. The host goes on at once where the transport
  // can order the two, and waits where it cannot.
  void then(device::Queue& queue) {
    if (state_) state_->then(queue);
    state_.reset();
  }

 private:
  std::unique_ptr<State> state_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  const std::string& name() const { return name_; }  // "data", "expert", ...: stands in messages

  // Untyped verbs, implemented by each transport. All are non-blocking; send and receive buffers do not
  // overlap, but for all_gather, whose `send` may be its own place in `receive`. counts and displacements are
  // by peer rank, in elements, and are copied before the call returns.
  virtual Request all_to_all(const void* send, std::span<const int64_t> send_counts,
                             std::span<const int64_t> send_displs, void* receive,
                             std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                             Dtype dtype, std::string_view label) = 0;
  virtual Request all_gather(const void* send, int64_t send_count, void* receive,
                             std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                             Dtype dtype, std::string_view label) = 0;
  virtual Request broadcast(void* data, int64_t count, int root, Dtype dtype, std::string_view label) = 0;

  // Calls between the two go to the wire as one, where the transport can. Their requests may be asked only after
  // end_together().
  virtual void begin_together() {}
  virtual void end_together() {}

  // Memory that stays, the same layout on all ranks, `data` the beginning of an allocation: what reduce_scatter sends from there
  // and all_gather receives there may travel by copy engines instead of kernels, where the transport can. Collective, as is the
  // end, which comes before the memory goes, after all requests, and takes back all that was shared.
  virtual void share(std::byte* data, size_t bytes) { (void)data, (void)bytes; }
  virtual void end_sharing() {}
  // Whether what stands or arrives at `data` travels so now.
  virtual bool copies(const void* data) const { return (void)data, false; }

  // For measuring what waiting for other ranks costs: while true, the verbs move as many bytes from this rank's own
  // data and talk to nobody. Sums are those of ranks that all have what this one has; all_gather in place
  // leaves what stands in the others' places, and what else arrives is meaningless. The same on all ranks, with nothing under
  // way.
  void set_imitation(bool on) { imitation_ = on; }
  bool imitation() const { return imitation_; }

  // Built on the verbs above, the same for every transport (communicator.cc).
  // data: (count) in and out, the same on all ranks afterwards.
  template <class T>
  void all_reduce(std::span<T> data, ReduceOp op, std::string_view label) {
    all_reduce_untyped(data.data(), int64_t(data.size()), dtype_of<T>(), op, label);
  }
  template <class T>
  T all_reduce(T value, ReduceOp op, std::string_view label) {
    all_reduce(std::span<T>(&value, 1), op, label);
    return value;
  }
  // The sum over ranks of send[cuts[r] .. cuts[r + 1]) arrives on rank r in receive (cuts[r + 1] - cuts[r]
  // elements). cuts has size() + 1 entries; uneven and empty parts are fine. receive may be the same part of
  // send.
  template <class T>
  Request reduce_scatter(const T* send, std::span<const int64_t> cuts, T* receive, std::string_view label) {
    return reduce_scatter_untyped(send, cuts, receive, dtype_of<T>(), label);
  }
  // One element each from and to every rank.
  std::vector<int64_t> exchange_counts(std::span<const int64_t> send, std::string_view label);
  void barrier(std::string_view label);
  // Every rank's text, in rank order.
  std::vector<std::string> gather_texts(const std::string& text, std::string_view label);
  // Throws the same Error on every rank when any rank passes a message; for agreeing on failures of local
  // work.
  void agree(const std::string& error, ExitCode code, std::string_view label);

  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }
  std::chrono::milliseconds timeout() const { return timeout_; }

 protected:
  explicit Communicator(std::string name);
  // Whether the buffers are host memory, which reductions here add up.
  virtual bool in_host_memory() const { return true; }
  // reduce_scatter with any operation.
  virtual Request start_reduction(const void* send, std::span<const int64_t> cuts, void* receive, Dtype dtype,
                                  ReduceOp op, std::string_view label);
  // The verbs in imitation, on host memory.
  void imitate_all_to_all(const void* send, std::span<const int64_t> send_counts,
                          std::span<const int64_t> send_displs, void* receive,
                          std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                          Dtype dtype) const;
  void imitate_all_gather(const void* send, int64_t send_count, void* receive,
                          std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                          Dtype dtype) const;

 private:
  class Staging;
  class Reduction;
  void all_reduce_untyped(void* data, int64_t count, Dtype dtype, ReduceOp op, std::string_view label);
  Request reduce_scatter_untyped(const void* send, std::span<const int64_t> cuts, void* receive, Dtype dtype,
                                 std::string_view label);
  std::string name_;
  std::shared_ptr<Staging> staging_;  // shared with reductions under way
  std::chrono::milliseconds timeout_ = std::chrono::minutes(10);
  bool imitation_ = false;
};

template <>
constexpr Dtype dtype_of<std::byte>() {
  return Dtype::kByte;
}
template <>
constexpr Dtype dtype_of<int32_t>() {
  return Dtype::kInt32;
}
template <>
constexpr Dtype dtype_of<int64_t>() {
  return Dtype::kInt64;
}
template <>
constexpr Dtype dtype_of<device::bf16>() {
  return Dtype::kBf16;
}
template <>
constexpr Dtype dtype_of<float>() {
  return Dtype::kFloat;
}
template <>
constexpr Dtype dtype_of<double>() {
  return Dtype::kDouble;
}

}  // namespace cadre::comm
