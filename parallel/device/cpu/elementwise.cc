// SwiGLU (Shazeer 2020), sums, copies and fills.
#include <algorithm>

#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {

template <class T>
void CpuKernels<T>::swiglu(Queue& queue, View<const T, 2> gate, View<const T, 2> up, View<T, 2> y) {
  cpu(queue).parallel_for(y.size(), kGrain, [&](int64_t begin, int64_t end) {
    const T *g = gate.data(), *u = up.data();
    T* out = y.data();
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = g[i] * sigmoid_of(g[i]) * u[i];
  });
}

// silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g). Every element is read before it is written, so outputs
// may alias inputs.
template <class T>
void CpuKernels<T>::swiglu_backward(Queue& queue, View<const T, 2> dy, View<const T, 2> gate,
                                    View<const T, 2> up, View<T, 2> dgate, View<T, 2> dup, View<T, 2> y) {
  cpu(queue).parallel_for(dy.size(), kGrain, [&](int64_t begin, int64_t end) {
    const T *d = dy.data(), *g = gate.data(), *u = up.data();
    T *dg = dgate.data(), *du = dup.data(), *out = y.data();
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T s = sigmoid_of(g[i]), grad = d[i], x = g[i], v = u[i];
      if (out != nullptr) out[i] = x * s * v;
      du[i] = grad * x * s;
      dg[i] = grad * v * s * (T(1) + x * (T(1) - s));
    }
  });
}

template <class T>
void CpuKernels<T>::add(Queue& queue, View<const T, 1> x, View<T, 1> y) {
  assert(x.size() == y.size());
  cpu(queue).parallel_for(y.size(), kGrain, [&](int64_t begin, int64_t end) {
    const T* __restrict in = x.data();
    T* __restrict out = y.data();
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] += in[i];
  });
}

template <class T>
void CpuKernels<T>::copy(Queue& queue, View<const T, 1> x, View<T, 1> y) {
  assert(x.size() == y.size());
  cpu(queue).parallel_for(y.size(), kGrain, [&](int64_t begin, int64_t end) {
    std::copy(x.data() + begin, x.data() + end, y.data() + begin);
  });
}

// On the CPU wide_t<T> is T.
template <class T>
void CpuKernels<T>::accumulate(Queue& queue, View<const T, 1> x, View<W, 1> sum) {
  add(queue, x, sum);
}
template <class T>
void CpuKernels<T>::widen(Queue& queue, View<const T, 1> x, View<W, 1> wide) {
  copy(queue, x, wide);
}

template <class T>
void CpuKernels<T>::fill(Queue& queue, View<T, 1> x, double value) {
  cpu(queue).parallel_for(x.size(), kGrain, [&](int64_t begin, int64_t end) {
    std::fill(x.data() + begin, x.data() + end, T(value));
  });
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
