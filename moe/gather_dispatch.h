// Dispatch over an expert group of several ranks without a word from the host: what is sent is sized by the bound of
// tokens that a micro-batch declares, so nobody has to read counts. How it travels is moe/gather_wire.h's. Every token's row goes once to every rank of the
// group, while the router still works; lists of slots follow, and each rank picks those of its experts. Outputs are
// weighted and summed there, and one row a token comes back from each rank.
//
// Against rows for chosen tokens only this sends (P - 1) T rows instead of (P - 1) T (1 - C(E - E/P, K) / C(E, K)): the
// same within 1% for 64 experts, 8 a token, on 2 ranks, 1.5 times as much on 8.
#pragma once

#include <memory>

#include "moe/gather_wire.h"

namespace cadre::moe {

template <class T>
class GatherDispatcher final : public Dispatcher<T> {
 public:
  using typename Dispatcher<T>::W;
  // Throws Error(kUsage) for routers with hints; name: of moe.dispatch.
  GatherDispatcher(device::Queue& queue, const MoeKernels<T>& kernels, std::unique_ptr<GatherWire<T>> wire,
                   const DispatchShape& shape, const char* name);
  void reserve(device::Arena& saved, device::Arena& scratch) override;
  int64_t max_slots() const override;
  void start_tokens(device::View<const T, 2> x) override;
  void send_tokens(device::View<const T, 2> x, const Routing<T>& routing) override;
  const ExpertSlots<T>& receive_tokens() override;
  const ExpertSlots<T>& slots() const override { return work_; }
  void send_outputs(device::View<const T, 2> slot_output) override;
  void combine(device::View<const T, 2> slot_output, bool accumulate, device::View<T, 2> y) override;
  bool combine_onto(device::View<const T, 2> slot_output, bool accumulate, device::View<const T, 2> plus,
                    device::View<T, 2> y) override;
  void send_grad(device::View<const T, 2> dy) override;
  device::View<const T, 2> receive_grad() override;
  void send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads, bool accumulate,
                 device::View<T, 2> dx) override;
  SlotGrads<T> receive_home() override;

 private:
  // Sums the slots of each row of other ranks, which go home. Own ones wait in the inbox for what comes.
  void return_rows(device::View<const T, 2> slot_rows, device::View<const W, 1> weight, const char* label);
  void sum_block(int rank, device::View<const T, 2> slot_rows, device::View<const W, 1> weight,
                 device::View<T, 2> to);
  void finish_outputs(device::View<const T, 2> slot_output);
  void add_returned(bool accumulate, device::View<T, 2> out);
  device::View<const int32_t, 1> home_offsets(int64_t tokens) const {
    return home_offsets_.rows(0, tokens + 1);
  }

  device::Queue& queue_;
  const MoeKernels<T>& kernels_;
  std::unique_ptr<GatherWire<T>> wire_;
  DispatchShape shape_;
  int ranks_;
  int64_t local_experts_;
  bool tables_ready_ = false, outputs_sent_ = false;
  const Routing<T>* routing_ = nullptr;  // of the last send_tokens
  ExpertSlots<T> work_;
  bool adds_to_dx_ = false;  // of the last send_home, like the next
  device::View<T, 2> dx_;

  // Constant: token t's rows are t, max_tokens + t, ... in the blocks of the ranks.
  device::View<int32_t, 1> home_offsets_, home_rows_;  // (T + 1), (P T)
  // Saved from forward to backward.
  device::View<T, 2> received_;                       // (P T, D)
  device::View<int64_t, 1> offsets_;                  // (E_local + 1)
  device::View<int32_t, 1> slot_row_, slot_source_;   // (A)
  device::View<W, 1> slot_gate_;                      // (A)
  device::View<int32_t, 1> row_offsets_, row_slots_;  // (P T + 1), (A)
  // Scratch.
  device::View<int64_t, 2> rank_begins_;  // (P + 1, E_local), see ExpertSlots
  device::View<T, 2> inbox_;              // (P T, D)
  device::View<W, 1> home_gate_;          // (S)
};

extern template class GatherDispatcher<float>;
extern template class GatherDispatcher<double>;
extern template class GatherDispatcher<device::bf16>;

}  // namespace cadre::moe
