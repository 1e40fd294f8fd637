// The experts of one rank, or its part of the width of all experts: y = W_down (silu(W_gate h) * W_up x), one SwiGLU an expert (Shazeer 2020, arXiv
// 2002.05202), as grouped GEMMs over slots sorted by expert. h is the router's hint when there is one, else
// x.
#pragma once

#include <absl/functional/function_ref.h>

#include "moe/dispatch.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"

namespace cadre::moe {

struct ExpertShape {
  int64_t dim = 0, width = 0, num_experts = 0;
  int64_t hint_width = 0;
  int64_t max_slots = 0;  // on this rank
  int width_parts = 1;    // ranks that share the width; outputs are then this rank's terms of the sum over it
  double init_std = 0.02, out_init_std = 0.02;
};

template <class T>
class ExpertFfn {
 public:
  using W = device::wide_t<T>;
  ExpertFfn(device::Queue& queue, const device::DeviceKernels<T>& dense, const MoeKernels<T>& kernels,
            const ExpertShape& shape)
      : queue_(queue), dense_(dense), kernels_(kernels), shape_(shape) {}

  void declare(device::ParamTable& table, const std::string& prefix, int bucket);  // global shapes
  void bind(device::ParamStore<T>& store);
  void reserve(device::Arena& saved, device::Arena& scratch);

  // Of a forward to come, before its slots are known: at most so many.
  void expect(int64_t slots);
  // (A, D), not yet multiplied by the gates; in scratch until the next call. Where slots.rank_begins say whose tokens' they are,
  // those of other ranks' come first and others_there is called between, on devices whose products can be cut.
  device::View<const T, 2> forward(
      const ExpertSlots<T>& slots,
      absl::FunctionRef<void(device::View<const T, 2>)> others_there = [](device::View<const T, 2>) {});
  // Makes again what forward saved, where something else took its place: the same slots and rows.
  void remake(const ExpertSlots<T>& slots);
  struct Grads {
    device::View<const T, 2> dx;  // (A, D) with the gates multiplied in
    SlotGrads<T> slots;
  };
  // drows (R, D): gradient of each row's summed output. Consumes what forward saved. Then, with the same slots, the
  // gradients of the weights, in whose time what backward returned can travel; they take the place of Grads::dx.
  Grads backward(const ExpertSlots<T>& slots, device::View<const T, 2> drows);
  void backward_weights(const ExpertSlots<T>& slots, device::Tap<T>* tap);

 private:
  device::Queue& queue_;
  const device::DeviceKernels<T>& dense_;
  const MoeKernels<T>& kernels_;
  ExpertShape shape_;
  int gate_row_ = -1, up_row_ = -1, down_row_ = -1;
  device::View<T, 3> w_gate_, w_up_, w_down_, dw_gate_, dw_up_,
      dw_down_;                   // (E_local, H_local, D or r), (E_local, D, H_local)
  const bool* add_ = nullptr;     // ParamStore::adds
  device::View<T, 2> gate_, up_;  // saved (A, H_local), before the activation
  device::View<T, 2> act_;        // scratch (A, H_local)
  device::View<T, 2> x_, y_;      // scratch (A, D)
  device::View<T, 2> dhint_;      // scratch (A, r)
  device::View<W, 1> dgate_;      // scratch (A)
};

// The shared experts: one dense SwiGLU for every token.
template <class T>
class SharedFfn {
 public:
  SharedFfn(device::Queue& queue, const device::DeviceKernels<T>& dense, const ExpertShape& shape,
            int64_t max_tokens)
      : queue_(queue), dense_(dense), shape_(shape), max_tokens_(max_tokens) {}

  void declare(device::ParamTable& table, const std::string& prefix, int bucket);
  void bind(device::ParamStore<T>& store);
  void reserve(device::Arena& saved, device::Arena& scratch);
  void forward(device::View<const T, 2> x, device::View<T, 2> y);  // y is overwritten
  void remake(device::View<const T, 2> x);                         // what forward saved
  // dx is overwritten.
  void backward(device::View<const T, 2> x, device::View<const T, 2> dy, device::View<T, 2> dx,
                device::Tap<T>* tap);

 private:
  device::Queue& queue_;
  const device::DeviceKernels<T>& dense_;
  ExpertShape shape_;  // width: of all shared experts together
  int64_t max_tokens_;
  int gate_row_ = -1, up_row_ = -1, down_row_ = -1;
  device::View<T, 2> w_gate_, w_up_, w_down_, dw_gate_, dw_up_, dw_down_;
  const bool* add_ = nullptr;      // ParamStore::adds
  device::View<T, 2> gate_, up_;   // saved (T, S H)
  device::View<T, 2> act_, dact_;  // scratch (T, S H)
};

extern template class ExpertFfn<float>;
extern template class ExpertFfn<double>;
extern template class ExpertFfn<device::bf16>;
extern template class SharedFfn<float>;
extern template class SharedFfn<double>;
extern template class SharedFfn<device::bf16>;

}  // namespace cadre::moe
