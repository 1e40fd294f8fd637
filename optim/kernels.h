// The table of optimizer kernels of a device: one entry per operation, chosen once at construction (as
// DeviceKernels).
#pragma once

#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::optim {

// One AdamW update of some elements (Loshchilov & Hutter 2019, Alg. 2), everything but the elements
// themselves.
struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;  // 0 for rows without decay
  double grad_scale = 1;    // multiplies the gradient before anything else
  double correction1 = 1;   // 1 - beta1^t
  double correction2 = 1;   // 1 - beta2^t
};

template <class T>
struct OptimKernels {
  using W = device::wide_t<T>;
  // Elementwise, so a slice of any size and alignment gives the same bits as the whole.
  void (*adamw)(device::Queue&, const AdamWStep&, device::View<const T, 1> grad, device::View<T, 1> value,
                device::View<W, 1> m, device::View<W, 1> v);
  // Sum of x^2 in double, over fixed blocks: the bits do not depend on the number of threads.
  double (*sum_squares)(device::Queue&, device::View<const T, 1> x);
};

// The CPU table, for T = float and double.
template <class T>
const OptimKernels<T>& cpu_optim_kernels();

}  // namespace cadre::optim
