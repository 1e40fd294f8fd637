// A linear layer without bias: y = x W^T, W (out, in). Holds no activations; callers keep x for the backward
// pass.
#pragma once

#include <string>

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
                      .bucket = bucket});
  }
  // Shares a row that another module declared.
  void share(int row) { row_ = row; }
  int row() const { return row_; }

  void bind(device::ParamStore<T>& store) {
    weight_ = store.template value<2>(row_);
    if (store.grads(device::Group::kDense).data() != nullptr) grad_ = store.template grad<2>(row_);
    const bool matrix = store.layout().table().row(row_).update == device::Update::kMatrix;
    add_ = matrix ? &store.adds() : nullptr;
  }
  View<const T, 2> weight() const { return weight_; }
  View<T, 2> grad() const { return grad_; }

  // y = x W^T + beta y.
  void forward(const ModelContext<T>& c, View<const T, 2> x, View<T, 2> y, double beta = 0) const {
    c.kernels->gemm(*c.queue, x, weight_, y, {.transpose_b = true, .beta = beta});
  }
  // grad += dy^T x, or = when ParamStore says so; dx = dy W + beta dx. token: see Tap::on_linear.
  void backward(const ModelContext<T>& c, View<const T, 2> x, View<const T, 2> dy, View<T, 2> dx, double beta,
                device::Tap<T>* tap, const int32_t* token = nullptr) const {
    c.kernels->gemm(*c.queue, dy, x, grad_,
                    {.transpose_a = true, .beta = add_ == nullptr || *add_ ? 1.0 : 0.0});
    c.kernels->gemm(*c.queue, dy, weight_, dx, {.beta = beta});
    if (tap != nullptr) tap->on_linear(row_, x, dy, token, {});
  }

 private:
  int row_ = -1;
  View<T, 2> weight_, grad_;
  const bool* add_ = nullptr;  // null: always
};

}  // namespace cadre::trainer
