// The table of optimizer kernels of a device: one entry per operation, chosen once at construction (as
// DeviceKernels).
#pragma once

#include "parallel/device/bf16.h"
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
  // Random rounding (of values to T when `stochastic`, of bf16 moments always) is a function of `seed` and
  // first + i, the element's place in its tensor.
  bool stochastic = false;
  uint64_t seed = 0;
  int64_t first = 0;
};

// The tensors of an AdamW update, all of one length.
template <class T>
struct AdamWTensors {
  using W = device::wide_t<T>;
  device::View<const T, 1> grad;
  device::View<const W, 1> grad_sum;  // of several micro-batches; replaces grad when not empty
  device::View<T, 1> value;           // overwritten with the new master, rounded to T
  device::View<W, 1> master;          // the same memory as value when T is W
  device::View<W, 1> m, v;
  device::View<device::bf16, 1> m_bf16, v_bf16;  // replace m and v when not empty; rounded at random
};

template <class T>
struct OptimKernels {
  using W = device::wide_t<T>;
  // Elementwise, so a slice of any size and alignment gives the same bits as the whole.
  void (*adamw)(device::Queue&, const AdamWStep&, const AdamWTensors<T>&);
  // out = grad / (sqrt(v / correction2) + eps), v in one of the two types; a copy where both are empty.
  void (*precondition)(device::Queue&, double correction2, double eps, device::View<const W, 1> v,
                       device::View<const device::bf16, 1> v_bf16, device::View<const W, 1> grad,
                       device::View<W, 1> out);
  // sum[0] += sum of x^2 in double, over fixed blocks: the bits do not depend on the number of threads.
  void (*add_squares)(device::Queue&, device::View<const T, 1> x, device::View<double, 1> sum);
  void (*add_squares_wide)(device::Queue&, device::View<const W, 1> x, device::View<double, 1> sum);

  // Muon: m = momentum m + g and x = nesterov ? g + momentum m : m, with g = grad_scale grad.
  void (*momentum)(device::Queue&, double momentum, bool nesterov, double grad_scale,
                   device::View<const T, 1> grad, device::View<const W, 1> grad_sum, device::View<W, 1> m,
                   device::View<T, 1> x);
  // x /= |x| + 1e-7.
  void (*normalize)(device::Queue&, device::View<T, 1> x);
  // master = keep master - rate x; value gets it rounded.
  void (*subtract)(device::Queue&, double keep, double rate, device::View<const T, 1> x,
                   device::View<T, 1> value, device::View<W, 1> master);
};

// The CPU table, for T = float and double.
template <class T>
const OptimKernels<T>& cpu_optim_kernels();
// The table for a device; throws Error(kUsage) when this build has none for it and this type.
template <class T>
const OptimKernels<T>& optim_kernels(device::DeviceKind device);

}  // namespace cadre::optim
