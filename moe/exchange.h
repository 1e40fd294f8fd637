// Dispatch over an expert group of several ranks, in host memory. A token's row travels once to each rank
// that holds any of its experts; slots travel as (row, gate). Each expert rank sums the weighted outputs of a
// row and sends one row back; the home rank sums over ranks. Every buffer has its worst-case size, so routing
// cannot overflow it; pages in use are few.
#pragma once

#include <vector>

#include "moe/dispatch.h"

namespace cadre::moe {

// How many elements go to and come from each rank, and where they stand.
struct Traffic {
  explicit Traffic(int ranks) : send(ranks), send_begin(ranks), receive(ranks), receive_begin(ranks) {}
  void place();  // begins from counts
  int64_t sent() const { return send_begin.back() + send.back(); }
  int64_t received() const { return receive_begin.back() + receive.back(); }
  std::vector<int64_t> send, send_begin, receive, receive_begin;
};

template <class T>
class ExchangeDispatcher final : public Dispatcher<T> {
 public:
  using typename Dispatcher<T>::W;
  ExchangeDispatcher(device::Queue& queue, const MoeKernels<T>& kernels, comm::Communicator& group,
                     const DispatchShape& shape);
  void reserve(device::Arena& saved, device::Arena& scratch) override;
  int64_t max_slots() const override;
  void send_tokens(device::View<const T, 2> x, const Routing<T>& routing) override;
  const ExpertSlots<T>& receive_tokens() override;
  const ExpertSlots<T>& slots() const override { return work_; }
  void combine(device::View<const T, 2> slot_output, bool accumulate, device::View<T, 2> y) override;
  void send_grad(device::View<const T, 2> dy) override;
  device::View<const T, 2> receive_grad() override;
  void send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads, bool accumulate,
                 device::View<T, 2> dx) override;
  SlotGrads<T> receive_home() override;

 private:
  void list_sent_rows(const Routing<T>& routing);
  void exchange_counts(const Routing<T>& routing);
  void group_slots();
  // Elements of `width` a row or slot, to the experts (out) or home again.
  template <class U>
  comm::Request out(const Traffic& traffic, int64_t width, const U* from, U* to, const char* label);
  template <class U>
  comm::Request home(const Traffic& traffic, int64_t width, const U* from, U* to, const char* label);
  void wait();
  int64_t max_rows() const { return ranks_ * shape_.max_tokens; }

  device::Queue& queue_;
  const MoeKernels<T>& kernels_;
  comm::Communicator& group_;
  DispatchShape shape_;
  int ranks_;
  int64_t local_experts_;

  Traffic rows_, slots_, index_;          // index: row tokens, then slot rows, for each rank
  std::vector<int64_t> sent_counts_;      // (ranks, 1 + E_local): rows, then slots by expert, to each rank
  std::vector<int64_t> received_counts_;  // the same from each rank
  std::vector<int64_t> slot_cursor_;      // (ranks) while slots are grouped
  std::vector<comm::Request> requests_;
  int64_t num_tokens_ = 0;
  ExpertSlots<T> work_;
  bool adds_to_dx_ = false;  // of the last send_home, like the next
  device::View<T, 2> dx_;

  // Saved from forward to backward.
  device::View<int32_t, 1> sent_token_;                // (rows sent) home token of each, by rank, then token
  device::View<int32_t, 1> home_offsets_, home_rows_;  // sent rows of each token
  device::View<T, 2> received_;                        // (R, D)
  device::View<int64_t, 1> offsets_;                   // (E_local + 1)
  device::View<int32_t, 1> slot_row_, slot_token_, slot_source_;  // (A); source: its place as it was received
  device::View<int32_t, 1> row_offsets_, row_slots_;
  device::View<W, 1> slot_gate_;  // (A)
  device::View<T, 2> slot_hint_;  // (A, r)
  // Scratch.
  device::View<int32_t, 1> sent_index_, received_index_, place_;
  device::View<T, 2> outbox_, inbox_, sums_;  // (rows, D)
  device::View<W, 1> wire_gate_, home_gate_;  // (A) in the order of the wire; (A) by the routing's slots
  device::View<T, 2> wire_hint_, home_hint_;
};

extern template class ExchangeDispatcher<float>;
extern template class ExchangeDispatcher<double>;

}  // namespace cadre::moe
