// The CPU entries of OptimKernels.
#include "optim/kernels.h"

#include <algorithm>
#include <cmath>

namespace cadre::optim {
namespace {

constexpr int64_t kGrain = 8192;  // elements: below this a thread costs more than it saves

template <class T>
void adamw(device::Queue& queue, const AdamWStep& s, device::View<const T, 1> grad, device::View<T, 1> value,
           device::View<device::wide_t<T>, 1> m, device::View<device::wide_t<T>, 1> v) {
  using W = device::wide_t<T>;
  const W b1 = W(s.beta1), b2 = W(s.beta2), scale = W(s.grad_scale), eps = W(s.eps);
  // p -= lr (mhat / (sqrt(vhat) + eps) + decay p), with the corrections folded into two factors.
  const W rate = W(s.lr / s.correction1), root = W(1 / std::sqrt(s.correction2)),
          keep = W(1 - s.lr * s.weight_decay);
  const T* __restrict g = grad.data();
  T* __restrict p = value.data();
  W* __restrict pm = m.data();
  W* __restrict pv = v.data();
  device::cpu(queue).parallel_for(value.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const W gi = W(g[i]) * scale;
      pm[i] = b1 * pm[i] + (1 - b1) * gi;
      pv[i] = b2 * pv[i] + (1 - b2) * gi * gi;
      p[i] = T(keep * W(p[i]) - rate * pm[i] / (std::sqrt(pv[i]) * root + eps));
    }
  });
}

template <class T>
double sum_squares(device::Queue& queue, device::View<const T, 1> x) {
  constexpr int64_t kParts = 64;
  double parts[kParts] = {};
  const int64_t step = (x.size() + kParts - 1) / kParts;
  device::cpu(queue).parallel_for(kParts, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, step)),
                                  [&](int64_t first, int64_t last) {
                                    for (int64_t part = first; part < last; ++part) {
                                      const int64_t end = std::min(x.size(), (part + 1) * step);
                                      double sum[4] = {};  // four chains hide the latency of the addition
                                      int64_t i = part * step;
                                      for (; i + 4 <= end; i += 4) {
                                        for (int64_t k = 0; k < 4; ++k)
                                          sum[k] += double(x[i + k]) * double(x[i + k]);
                                      }
                                      for (; i < end; ++i) sum[0] += double(x[i]) * double(x[i]);
                                      parts[part] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                                    }
                                  });
  double total = 0;
  for (double part : parts) total += part;
  return total;
}

}  // namespace

template <class T>
const OptimKernels<T>& cpu_optim_kernels() {
  static const OptimKernels<T> table = {.adamw = adamw<T>, .sum_squares = sum_squares<T>};
  return table;
}
template const OptimKernels<float>& cpu_optim_kernels<float>();
template const OptimKernels<double>& cpu_optim_kernels<double>();

}  // namespace cadre::optim
