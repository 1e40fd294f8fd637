// RMSNorm (Zhang & Sennrich 2019) over the last axis, with a learned weight. Keeps 1/rms of each row for the
// backward pass.
#pragma once

#include <string>

#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"
#include "trainer/model/context.h"

namespace cadre::trainer {

template <class T>
class RmsNorm {
 public:
  template <class U, int N>
  using View = device::View<U, N>;
  using W = device::wide_t<T>;

  void declare(device::ParamTable& table, const std::string& name, int64_t width, double eps, int bucket) {
    eps_ = eps;
    row_ = table.add(
        {.name = name, .shape = {width}, .init = {device::Init::kOnes, 0}, .decay = false, .bucket = bucket});
  }
  void bind(device::ParamStore<T>& store) {
    weight_ = store.template value<1>(row_);
    if (store.grads(device::Group::kDense).data() != nullptr) grad_ = store.template grad<1>(row_);
  }
  View<const T, 1> weight() const { return weight_; }
  double eps() const { return eps_; }
  void reserve(device::Arena& saved, int64_t max_rows) { rstd_ = saved.take<W, 1>({max_rows}); }

  void forward(const ModelContext<T>& c, View<const T, 2> x, View<T, 2> y) {
    c.kernels->rms_norm(*c.queue, x, weight_, eps_, y, rstd_.rows(0, x.dim(0)));
  }
  // dx += gradient, or = unless add; x is the input of the last forward, with rows_per_token rows a token.
  void backward(const ModelContext<T>& c, View<const T, 2> dy, View<const T, 2> x, bool add, View<T, 2> dx,
                device::Tap<T>* tap, int64_t rows_per_token = 1) {
    const View<const W, 1> rstd = rstd_.rows(0, x.dim(0));
    if (tap != nullptr) tap->on_scale(row_, x, rstd, dy, rows_per_token);
    c.kernels->rms_norm_backward(*c.queue, dy, x, weight_, rstd, add, dx, grad_);
  }

 private:
  int row_ = -1;
  double eps_ = 0;
  View<T, 1> weight_, grad_;
  View<W, 1> rstd_;
};

}  // namespace cadre::trainer
