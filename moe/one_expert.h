// A layer without experts as one expert that has every row: kernels that do more than plain products one by one.
#pragma once

#include <span>

#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::moe {

// b w, a part of a data gradient. b: (T, out), w: (out, in).
template <class T>
struct DgradTerm {
  device::View<const T, 2> b, w;
};
inline constexpr size_t kMostDgradTerms = 3;

// A weight gradient b^T a of a layer. b: (T, out), a: (T, in), dw: (out, in).
template <class T>
struct Wgrad {
  device::View<const T, 2> b, a;
  device::View<T, 2> dw;
};
inline constexpr size_t kMostWgrads = 4;

// Weights are (out, in). No entry waits.
template <class T>
struct OneExpert {
  template <class U, int N>
  using View = device::View<U, N>;
  // gate and up become their gradients, where dL/d(silu(gate) * up) = dy w_down.
  void (*swiglu_backward)(device::Queue&, View<const T, 2> dy, View<const T, 2> w_down, View<T, 2> gate,
                          View<T, 2> up);
  // dx = the sum of at most kMostDgradTerms terms, rounded once.
  void (*dgrad)(device::Queue&, std::span<const DgradTerm<T>> terms, View<T, 2> dx);
  // dw = (accumulate ? dw : 0) + b^T a of 1 to kMostWgrads layers, all with the same number of rows. False, and nothing is
  // done, where that fills the device no better than one product after the other; which depends on shapes alone.
  bool (*wgrads)(device::Queue&, std::span<const Wgrad<T>> layers, bool accumulate);
};

// Null where plain products and passes over their results are better: everywhere but for bf16 on sm_90, for operands
// (all of a call's) that are no whole units of 16 bytes, and for fewer rows than fill a GPU.
template <class T>
const OneExpert<T>* one_expert(device::DeviceKind device, int64_t rows,
                               std::span<const device::View<const T, 2>> operands);

}  // namespace cadre::moe
