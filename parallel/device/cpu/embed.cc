// Rows of a table by index, and their gradient.
#include <algorithm>

#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {

template <class T>
void CpuKernels<T>::embed(Queue& queue, View<const T, 2> table, View<const int32_t, 1> token, View<T, 2> y) {
  const int64_t width = y.dim(1);
  cpu(queue).parallel_for(y.dim(0), row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      assert(token[row] >= 0 && token[row] < table.dim(0));
      std::copy_n(table.data() + token[row] * width, width, y.data() + row * width);
    }
  });
}

// Threads share the columns, not the tokens: then each element's sum runs over the tokens in their order.
template <class T>
void CpuKernels<T>::embed_backward(Queue& queue, View<const T, 2> dy, View<const int32_t, 1> token,
                                   View<T, 2> dtable) {
  const int64_t rows = dy.dim(0), width = dy.dim(1);
  constexpr int64_t kLine = 16;  // columns of one cache line
  const int64_t lines = (width + kLine - 1) / kLine;
  cpu(queue).parallel_for(lines, row_grain(rows * kLine), [&](int64_t first, int64_t last) {
    const int64_t begin = first * kLine, end = std::min(last * kLine, width);
    for (int64_t row = 0; row < rows; ++row) {
      const T* __restrict in = dy.data() + row * width;
      T* __restrict out = dtable.data() + token[row] * width;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) out[i] += in[i];
    }
  });
}

template <class T>
void CpuKernels<T>::follow_drawn(Queue&, View<const int32_t, 1> drawn, View<const int32_t, 1> follows,
                                 View<int32_t, 1> token) {
  for (int64_t t = 0; t < token.size(); ++t) {
    if (follows[t] >= 0) token[t] = drawn[follows[t]];
  }
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
