// Dispatch over an expert group whose ranks read each other's memory: GPUs of one host, or threads of one process. The
// host knows no counts and waits for nothing. Rows are read and not sent: a rank lays its tokens' rows and lists of slots
// where others read them, and each rank takes from there the slots of its experts and, once each, the rows that they need.
// Outputs are weighted and summed by the rank of the experts, and the token's rank reads one row from each rank that
// holds any of its experts, adding them up in rank order. Places are those of moe/gather_dispatch.h: row rank * max_tokens +
// token, slots by expert, then rank, then token. So every sum has the same terms in the same order, and the same bits.
//
// Reading spares what sending would need: a journey for counts, and a receiver that says when its buffer is free. A pass has four
// rounds of comm::PeerMemory, which take turns in two parts of the region: rows to experts, sums home, gradients to experts,
// sums of gradients home.
#pragma once

#include "moe/peer_region.h"

namespace cadre::moe {

template <class T>
class PeerDispatcher final : public Dispatcher<T> {
 public:
  using typename Dispatcher<T>::W;
  // Throws Error(kUsage) for routers with hints.
  PeerDispatcher(device::Queue& queue, const MoeKernels<T>& kernels, comm::PeerMemory& peers,
                 const DispatchShape& shape);
  // Collective when the arenas have their memory: takes the region then, if a larger one is needed.
  void reserve(device::Arena& saved, device::Arena& scratch) override;
  int64_t max_slots() const override;
  void start_tokens(device::View<const T, 2> x) override;
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
  // Sums the slots of each row where the others read them; those of this rank's tokens are added up in `out` by `queue`.
  void offer_sums(device::View<const T, 2> slot_rows, device::View<const W, 1> weight, const char* label);
  void read_sums(device::Queue& queue, bool accumulate, device::View<T, 2> out);
  uint64_t row_bytes(int64_t rows) const { return uint64_t(rows * shape_.dim) * sizeof(T); }

  device::Queue& queue_;
  const MoeKernels<T>& kernels_;
  comm::PeerMemory& peers_;
  DispatchShape shape_;
  int ranks_;
  int64_t local_experts_;
  PeerRegion<T> region_;
  const Routing<T>* routing_ = nullptr;  // of the last send_tokens
  ExpertSlots<T> work_;

  // Saved from forward to backward.
  device::View<uint8_t, 2> takes_;                    // (P, T) whether a rank holds an expert of a token
  device::View<T, 2> received_;                       // (P T, D)
  device::View<int64_t, 1> offsets_;                  // (E_local + 1)
  device::View<int32_t, 1> slot_row_, slot_source_;   // (A)
  device::View<W, 1> slot_gate_;                      // (A)
  device::View<int32_t, 1> row_offsets_, row_slots_;  // (P T + 1), (A)
  // Scratch.
  device::View<int64_t, 2> table_offsets_;  // (P, E + 1)
  device::View<int32_t, 2> table_token_;    // (P, S)
  device::View<W, 2> table_gate_;           // (P, S)
  device::View<T, 2> drows_;                // (P T, D)
  device::View<W, 1> home_gate_;            // (S)
};

extern template class PeerDispatcher<float>;
extern template class PeerDispatcher<double>;
extern template class PeerDispatcher<device::bf16>;

}  // namespace cadre::moe
