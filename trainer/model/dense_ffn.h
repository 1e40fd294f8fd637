// The dense feed-forward layer: SwiGLU of ModelConfig::ffn_width. Where anything is recomputed, the activation is made
// again in the backward pass too instead of being kept: it costs a write of it in a pass that is made anyway, and
// saves a third of the layer's activations.
#pragma once

#include <string>

#include "trainer/model/config.h"
#include "trainer/model/linear.h"

namespace cadre::trainer {

template <class T>
class DenseFfn {
 public:
  template <class U, int N>
  using View = device::View<U, N>;

  DenseFfn(const ModelConfig& config, const ModelContext<T>& context) : config_(config), context_(context) {}
  void declare(device::ParamTable& table, const std::string& prefix, int bucket);
  void bind(device::ParamStore<T>& store);
  void reserve(device::Arena& saved, device::Arena& scratch);

  // y = plus + ffn(x). x stays unchanged until backward.
  void forward(View<const T, 2> x, View<const T, 2> plus, View<T, 2> y);
  void remake(View<const T, 2> x);  // what forward saved
  // dx is overwritten. Consumes the saved activations.
  void backward(View<const T, 2> x, View<const T, 2> dy, View<T, 2> dx, device::Tap<T>* tap);

 private:
  bool keeps() const { return context_.recompute == Recompute::kNone; }
  const ModelConfig& config_;
  const ModelContext<T>& context_;
  Linear<T> w_gate_, w_up_, w_down_;
  View<T, 2> gate_, up_;  // (T, F) saved
  View<T, 2> act_,
      dact_;  // (T, F): the activation, saved where it is kept, and its gradient in scratch; else the same
};

}  // namespace cadre::trainer
