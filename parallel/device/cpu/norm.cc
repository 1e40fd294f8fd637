// RMSNorm and its gradient.
#include <algorithm>

#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {

template <class T>
void CpuKernels<T>::rms_norm(Queue& queue, View<const T, 2> x, View<const T, 1> w, double eps, View<T, 2> y,
                             View<W, 1> rstd) {
  const int64_t width = x.dim(1);
  cpu(queue).parallel_for(x.dim(0), row_grain(width), [&](int64_t begin, int64_t end) {
    const T* __restrict weight = w.data();
    for (int64_t row = begin; row < end; ++row) {
      const T* __restrict in = x.data() + row * width;
      T* __restrict out = y.data() + row * width;
      W squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) squares += W(in[i]) * W(in[i]);
      const W scale = W(1) / std::sqrt(squares / W(width) + W(eps));
      rstd.data()[row] = scale;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) out[i] = in[i] * scale * weight[i];
    }
  });
}

namespace {
// dx_i += r w_i dy_i - x_i r^3 / D sum_j(dy_j w_j x_j), r = rstd; dw_i += dy_i x_i r.
template <class T, class W>
void backward_row(const T* __restrict dy, const T* __restrict x, const T* __restrict w, W r, int64_t width,
                  bool add, T* __restrict dx, T* __restrict dw) {
  W dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < width; ++i) dot += W(dy[i]) * W(w[i]) * W(x[i]);
  const W pull = dot * r * r * r / W(width);
  if (!add) std::fill(dx, dx + width, T(0));
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    dx[i] += r * w[i] * dy[i] - pull * x[i];
    dw[i] += dy[i] * x[i] * r;
  }
}
}  // namespace

// Each of a fixed number of row ranges sums its own dw; the sums are then added in order of the ranges.
template <class T>
void CpuKernels<T>::rms_norm_backward(Queue& queue, View<const T, 2> dy, View<const T, 2> x,
                                      View<const T, 1> w, View<const W, 1> rstd, bool add, View<T, 2> dx,
                                      View<T, 1> dw) {
  const int64_t rows = x.dim(0), width = x.dim(1);
  const int64_t stride = (width + 15) / 16 * 16;  // keeps threads off each other's cache lines
  const int64_t ranges = std::clamp<int64_t>(rows / row_grain(width), 1, cpu(queue).num_threads());
  T* partial = reduction_scratch<T>(ranges * stride);
  cpu(queue).parallel_for(ranges, 1, [&](int64_t first, int64_t last) {
    for (int64_t range = first; range < last; ++range) {
      T* sum = partial + range * stride;
      std::fill(sum, sum + width, T(0));
      for (int64_t row = range * rows / ranges; row < (range + 1) * rows / ranges; ++row) {
        backward_row(dy.data() + row * width, x.data() + row * width, w.data(), rstd.data()[row], width, add,
                     dx.data() + row * width, sum);
      }
    }
  });
  for (int64_t range = 0; range < ranges; ++range) {
    for (int64_t i = 0; i < width; ++i) dw.data()[i] += partial[range * stride + i];
  }
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
