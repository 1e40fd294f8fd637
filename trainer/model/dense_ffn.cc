#include "trainer/model/dense_ffn.h"

#include <cmath>

#include "moe/one_expert.h"

namespace cadre::trainer {

template <class T>
void DenseFfn<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  const int64_t d = config_.dim, f = config_.ffn_width;
  const double std = config_.init_std, out_std = config_.init_std / std::sqrt(2.0 * config_.layers);
  w_gate_.declare(table, prefix + ".w_gate", f, d, std, device::Update::kMatrix, bucket);
  w_up_.declare(table, prefix + ".w_up", f, d, std, device::Update::kMatrix, bucket);
  w_down_.declare(table, prefix + ".w_down", d, f, out_std, device::Update::kMatrix, bucket);
}

template <class T>
void DenseFfn<T>::bind(device::ParamStore<T>& store) {
  for (Linear<T>* linear : {&w_gate_, &w_up_, &w_down_}) linear->bind(store);
}

template <class T>
void DenseFfn<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const std::array<int64_t, 2> shape = {context_.max_tokens(), config_.ffn_width};
  gate_ = saved.take<T, 2>(shape);
  up_ = saved.take<T, 2>(shape);
  dact_ = scratch.take<T, 2>(shape);
  act_ = keeps() ? saved.take<T, 2>(shape) : dact_;
}

template <class T>
void DenseFfn<T>::forward(View<const T, 2> x, View<const T, 2> plus, View<T, 2> y) {
  const int64_t tokens = x.dim(0);
  const View<T, 2> act = act_.rows(0, tokens);
  remake(x);
  context_.kernels->swiglu(*context_.queue, gate_.rows(0, tokens), up_.rows(0, tokens), act);
  w_down_.forward_onto(context_, act, plus, y);
}

template <class T>
void DenseFfn<T>::remake(View<const T, 2> x) {
  const int64_t tokens = x.dim(0);
  forward_together<T, 2>(context_, {&w_gate_, &w_up_}, x, {gate_.rows(0, tokens), up_.rows(0, tokens)});
}

template <class T>
void DenseFfn<T>::backward(View<const T, 2> x, View<const T, 2> dy, View<T, 2> dx, device::Tap<T>* tap) {
  const int64_t tokens = x.dim(0);
  const View<T, 2> gate = gate_.rows(0, tokens), up = up_.rows(0, tokens);
  const View<T, 2> act = act_.rows(0, tokens), dact = dact_.rows(0, tokens);
  device::Queue& queue = *context_.queue;
  // gate and up become their gradients, and an activation that was not kept is made again: dact's place is its own.
  const std::array<View<const T, 2>, 4> operands = {dy, w_down_.weight(), gate, up};
  if (const auto* one = moe::one_expert<T>(queue.kind(), tokens, operands)) {
    if (!keeps()) context_.kernels->swiglu(queue, gate, up, act);
    one->swiglu_backward(queue, dy, w_down_.weight(), gate, up);
  } else {
    w_down_.backward_input(context_, dy, dact, 0);
    context_.kernels->swiglu_backward(queue, dact, gate, up, gate, up, keeps() ? View<T, 2>() : act);
  }
  backward_inputs<T, 2>(context_, {&w_gate_, &w_up_}, {gate, up}, dx);
  const WeightPart<T> down{&w_down_, act, dy};
  backward_weights<T, 2>(context_, &down, {&w_gate_, &w_up_}, x, {gate, up}, tap);
}

template class DenseFfn<float>;
template class DenseFfn<double>;
template class DenseFfn<device::bf16>;

}  // namespace cadre::trainer
