// A linear layer without bias: y = x W^T, W (out, in). Holds no activations; callers keep x for the backward
// pass.
#pragma once

#include <array>
#include <span>
#include <string>

#include "moe/one_expert.h"
#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"
#include "trainer/model/context.h"

namespace cadre::trainer {

template <class T>
class Linear {
 public:
  template <class U, int N>
  using View = device::View<U, N>;

  void declare(device::ParamTable& table, const std::string& name, int64_t out, int64_t in, double std,
               device::Update update, int bucket) {
    row_ = table.add({.name = name,
                      .shape = {out, in},
                      .init = {device::Init::kNormal, std},
                      .decay = true,
                      .update = update,
                      .product = true,
                      .bucket = bucket});
  }
  // Shares a row that another module declared.
  void share(int row) { row_ = row; }
  int row() const { return row_; }

  void bind(device::ParamStore<T>& store) {
    weight_ = store.template value<2>(row_);
    if (store.grads(device::Group::kDense).data() != nullptr) grad_ = store.template grad<2>(row_);
    add_ = store.layout().table().row(row_).writes_gradient() ? &store.adds() : nullptr;
  }
  View<const T, 2> weight() const { return weight_; }
  View<T, 2> grad() const { return grad_; }

  // y = x W^T + beta y.
  void forward(const ModelContext<T>& c, View<const T, 2> x, View<T, 2> y, double beta = 0) const {
    c.kernels->gemm(*c.queue, x, weight_, y, {.transpose_b = true, .beta = beta});
  }
  // y = x W^T + plus.
  void forward_onto(const ModelContext<T>& c, View<const T, 2> x, View<const T, 2> plus, View<T, 2> y) const {
    c.kernels->gemm_onto(*c.queue, x, weight_, plus, y, {.transpose_b = true, .beta = 1});
  }
  // grad += dy^T x, or = when ParamStore says so. token: see Tap::on_linear. more: of the same micro-batch as the call
  // before.
  void backward_weight(const ModelContext<T>& c, View<const T, 2> x, View<const T, 2> dy, device::Tap<T>* tap,
                       const int32_t* token = nullptr, bool more = false) const {
    device::GemmFlags flags = grad_flags();
    if (more) flags.beta = 1;
    c.kernels->gemm(*c.queue, dy, x, grad_, flags);
    if (tap != nullptr) tap->on_linear(row_, x, dy, token, {});
  }
  // dx = dy W + beta dx.
  void backward_input(const ModelContext<T>& c, View<const T, 2> dy, View<T, 2> dx, double beta) const {
    c.kernels->gemm(*c.queue, dy, weight_, dx, {.beta = beta});
  }
  // Instead of backward_weight, for a micro-batch without rows.
  void no_gradient(const ModelContext<T>& c) const {
    if (grad_flags().beta == 0) c.kernels->fill(*c.queue, grad_.template reshape<1>({grad_.size()}), 0);
  }
  device::GemmFlags grad_flags() const {
    return {.transpose_a = true, .beta = add_ == nullptr || *add_ ? 1.0 : 0.0};
  }

 private:
  int row_ = -1;
  View<T, 2> weight_, grad_;
  const bool* add_ = nullptr;  // null: always
};

// The matrices as one view where they are of one shape and follow one another in memory; else empty.
template <class U, size_t N>
device::View<U, 3> together(const std::array<device::View<U, 2>, N>& matrices) {
  const device::View<U, 2>& first = matrices[0];
  for (size_t i = 0; i < N; ++i) {
    if (matrices[i].shape() != first.shape() ||
        matrices[i].data() != first.data() + int64_t(i) * first.size())
      return {};
  }
  return {first.data(), {int64_t(N), first.dim(0), first.dim(1)}};
}

// Several layers on one input. Where their matrices and outputs lie side by side, as those of one module do, they run
// as one batch, which fills a GPU better.
template <class T, size_t N>
void forward_together(const ModelContext<T>& c, const std::array<const Linear<T>*, N>& layers,
                      device::View<const T, 2> x, const std::array<device::View<T, 2>, N>& y) {
  std::array<device::View<const T, 2>, N> weights;
  for (size_t i = 0; i < N; ++i) weights[i] = layers[i]->weight();
  const auto w = together(weights);
  const auto out = together(y);
  if (w.empty() || out.empty()) {
    for (size_t i = 0; i < N; ++i) layers[i]->forward(c, x, y[i]);
    return;
  }
  c.kernels->gemm_batch(*c.queue, x.template reshape<3>({1, x.dim(0), x.dim(1)}), w, out,
                        {.transpose_b = true});
}

// dx = the sum of dy W over the layers.
template <class T, size_t N>
void backward_inputs(const ModelContext<T>& c, const std::array<const Linear<T>*, N>& layers,
                     const std::array<device::View<T, 2>, N>& dy, device::View<T, 2> dx) {
  static_assert(N <= moe::kMostDgradTerms);
  std::array<moe::DgradTerm<T>, N> terms;
  std::array<device::View<const T, 2>, 2 * N + 1> operands;
  for (size_t i = 0; i < N; ++i) {
    terms[i] = {dy[i], layers[i]->weight()};
    operands[i] = dy[i];
    operands[N + i] = layers[i]->weight();
  }
  operands[2 * N] = dx;
  if (const auto* one = moe::one_expert<T>(c.queue->kind(), dx.dim(0), operands)) {
    one->dgrad(*c.queue, terms, dx);
    return;
  }
  for (size_t i = 0; i < N; ++i) layers[i]->backward_input(c, dy[i], dx, i == 0 ? 0 : 1);
}

// What a layer's weight gradient is made of, dy^T x.
template <class T>
struct WeightPart {
  const Linear<T>* layer;
  device::View<const T, 2> x, dy;
};

// In one launch, where the device has one that is better than products one by one. False: nothing was done.
template <class T>
bool backward_weights_at_once(const ModelContext<T>& c, std::span<const WeightPart<T>> parts) {
  std::array<moe::Wgrad<T>, moe::kMostWgrads> all;
  std::array<device::View<const T, 2>, 3 * moe::kMostWgrads> operands;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [layer, x, dy] = parts[i];
    all[i] = {dy, x, layer->grad()};
    operands[3 * i] = dy;
    operands[3 * i + 1] = x;
    operands[3 * i + 2] = layer->grad();
  }
  const auto* one =
      moe::one_expert<T>(c.queue->kind(), parts[0].x.dim(0), std::span(operands).first(3 * parts.size()));
  return one != nullptr &&
         one->wgrads(*c.queue, std::span(all).first(parts.size()), parts[0].layer->grad_flags().beta != 0);
}

// As Linear::backward_weight of each; apart: of a layer with an input of its own, if there is one.
template <class T, size_t N>
void backward_weights(const ModelContext<T>& c, const WeightPart<T>* apart,
                      const std::array<const Linear<T>*, N>& layers, device::View<const T, 2> x,
                      const std::array<device::View<T, 2>, N>& dy, device::Tap<T>* tap) {
  static_assert(N + 1 <= moe::kMostWgrads);
  std::array<WeightPart<T>, N + 1> all;
  std::array<device::View<T, 2>, N> grads;
  size_t count = 0;
  if (apart != nullptr) all[count++] = *apart;
  for (size_t i = 0; i < N; ++i) {
    all[count++] = {layers[i], x, dy[i]};
    grads[i] = layers[i]->grad();
  }
  const auto parts = std::span<const WeightPart<T>>(all).first(count);
  if (!backward_weights_at_once(c, parts)) {
    const auto grad = together(grads), out = together(dy);
    const bool batch = !grad.empty() && !out.empty();
    for (const auto& part : parts.first(batch ? count - N : count))
      part.layer->backward_weight(c, part.x, part.dy, nullptr);
    if (batch)
      c.kernels->gemm_batch(*c.queue, out, x.template reshape<3>({1, x.dim(0), x.dim(1)}), grad,
                            layers[0]->grad_flags());
  }
  if (tap == nullptr) return;
  for (const auto& part : parts) tap->on_linear(part.layer->row(), part.x, part.dy, nullptr, {});
}

}  // namespace cadre::trainer
