// The CPU entries of OptimKernels.
#include "optim/kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "optim/rounding.h"
#include "parallel/base/rng.h"

namespace cadre::optim {
namespace {

constexpr int64_t kGrain = 8192;  // elements: below this a thread costs more than it saves

// On the CPU gradients, sums of gradients and values all have one type.
template <class T>
const T* gradient(device::View<const T, 1> grad, device::View<const T, 1> grad_sum) {
  return grad_sum.empty() ? grad.data() : grad_sum.data();
}

// M: the type of the moments.
template <class T, class M>
void adamw_typed(device::Queue& queue, const AdamWStep& s, const AdamWTensors<T>& tensors, M* __restrict pm,
                 M* __restrict pv) {
  using W = device::wide_t<T>;
  assert(tensors.value.data() == tensors.master.data());
  const W b1 = W(s.beta1), b2 = W(s.beta2), scale = W(s.grad_scale), eps = W(s.eps);
  // p -= lr (mhat / (sqrt(vhat) + eps) + decay p), with the corrections folded into two factors.
  const W rate = W(s.lr / s.correction1), root = W(1 / std::sqrt(s.correction2)),
          keep = W(1 - s.lr * s.weight_decay);
  const W* __restrict g = gradient(tensors.grad, tensors.grad_sum);
  W* __restrict p = tensors.master.data();
  const base::Philox random(s.seed);
  device::cpu(queue).parallel_for(tensors.value.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const W gi = g[i] * scale;
      const W m = b1 * W(pm[i]) + (1 - b1) * gi, v = b2 * W(pv[i]) + (1 - b2) * gi * gi;
      p[i] = keep * p[i] - rate * m / (std::sqrt(v) * root + eps);
      if constexpr (std::is_same_v<M, W>) {
        pm[i] = m;
        pv[i] = v;
      } else {  // the words that CUDA's kernel takes
        const auto words = random.words(uint64_t(s.first + i));
        pm[i] = round_at_random(float(m), words[1]);
        pv[i] = round_at_random(float(v), words[2]);
      }
    }
  });
}

template <class T>
void adamw(device::Queue& queue, const AdamWStep& s, const AdamWTensors<T>& tensors) {
  if (tensors.m_bf16.empty()) return adamw_typed(queue, s, tensors, tensors.m.data(), tensors.v.data());
  adamw_typed(queue, s, tensors, tensors.m_bf16.data(), tensors.v_bf16.data());
}

template <class T>
void precondition(device::Queue& queue, double correction2, double eps, device::View<const T, 1> v,
                  device::View<const device::bf16, 1> v_bf16, device::View<const T, 1> grad,
                  device::View<T, 1> out) {
  const auto run = [&](const auto& moment) {
    device::cpu(queue).parallel_for(grad.size(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        out[i] = T(double(grad[i]) / (std::sqrt(double(T(moment[i])) / correction2) + eps));
    });
  };
  if (!v.empty()) return run(v);
  if (!v_bf16.empty()) return run(v_bf16);
  std::copy_n(grad.data(), grad.size(), out.data());
}

template <class T>
void add_squares(device::Queue& queue, device::View<const T, 1> x, device::View<double, 1> sum_of_all) {
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
  sum_of_all[0] += total;
}

template <class T>
void momentum(device::Queue& queue, double momentum, bool nesterov, double grad_scale,
              device::View<const T, 1> grad, device::View<const T, 1> grad_sum, device::View<T, 1> m,
              device::View<T, 1> x) {
  const T mu = T(momentum), scale = T(grad_scale);
  const T* g = gradient(grad, grad_sum);
  device::cpu(queue).parallel_for(x.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T gi = g[i] * scale;
      m[i] = mu * m[i] + gi;
      x[i] = nesterov ? gi + mu * m[i] : m[i];
    }
  });
}

// The Frobenius norm bounds the largest singular value; the small term only guards an all-zero gradient.
template <class T>
void normalize(device::Queue&, device::View<T, 1> x) {
  double sum = 0;
  for (const T e : x) sum += double(e) * double(e);
  const double inverse = 1 / (std::sqrt(sum) + 1e-7);
  for (T& e : x) e = T(double(e) * inverse);
}

template <class T>
void subtract(device::Queue& queue, double keep, double rate, device::View<const T, 1> x,
              device::View<T, 1> value, device::View<T, 1> master) {
  assert(value.data() == master.data());
  const T k = T(keep), r = T(rate);
  device::cpu(queue).parallel_for(value.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) master[i] = k * master[i] - r * x[i];
  });
}

}  // namespace

template <class T>
const OptimKernels<T>& cpu_optim_kernels() {
  static const OptimKernels<T> table = {.adamw = adamw<T>,
                                        .precondition = precondition<T>,
                                        .add_squares = add_squares<T>,
                                        .add_squares_wide = add_squares<T>,
                                        .momentum = momentum<T>,
                                        .normalize = normalize<T>,
                                        .subtract = subtract<T>};
  return table;
}
template const OptimKernels<float>& cpu_optim_kernels<float>();
template const OptimKernels<double>& cpu_optim_kernels<double>();

}  // namespace cadre::optim
