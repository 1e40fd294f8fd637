// Collectives as values. A Communicator is a group of ranks that make the same calls in the same order; MPI,
// threads of one process (tests) and later NCCL implement it. Counts are in elements. Every call carries a
// label and a timeout, so that a hang ends as one line that names the collective, and exit code 5.
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

namespace cadre::comm {

enum class Dtype { kByte, kInt32, kInt64, kFloat, kDouble };
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

 private:
  class Staging;
  class Reduction;
  Request start_reduction(const void* send, std::span<const int64_t> cuts, void* receive, Dtype dtype,
                          ReduceOp op, std::string_view label);
  void all_reduce_untyped(void* data, int64_t count, Dtype dtype, ReduceOp op, std::string_view label);
  Request reduce_scatter_untyped(const void* send, std::span<const int64_t> cuts, void* receive, Dtype dtype,
                                 std::string_view label);
  std::string name_;
  std::shared_ptr<Staging> staging_;  // shared with reductions under way
  std::chrono::milliseconds timeout_ = std::chrono::minutes(10);
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
constexpr Dtype dtype_of<float>() {
  return Dtype::kFloat;
}
template <>
constexpr Dtype dtype_of<double>() {
  return Dtype::kDouble;
}

}  // namespace cadre::comm
