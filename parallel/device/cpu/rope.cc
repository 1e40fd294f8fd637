// Rotary position embedding.
#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {

template <class T>
void CpuKernels<T>::rope(Queue& queue, View<T, 3> x, View<const int32_t, 1> position, View<const W, 2> table,
                         bool inverse) {
  const int64_t heads = x.dim(1), half = x.dim(2) / 2;
  const W sign = inverse ? W(-1) : W(1);
  cpu(queue).parallel_for(x.dim(0), row_grain(2 * heads * half), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int32_t at = position[token % position.dim(0)];
      assert(at >= 0 && at < table.dim(0));
      const W* __restrict cosine = table.data() + at * 2 * half;
      const W* __restrict sine = cosine + half;
      for (int64_t head = 0; head < heads; ++head) {
        T* __restrict low = x.data() + (token * heads + head) * 2 * half;
        T* __restrict high = low + half;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const W a = low[i], b = high[i], s = sign * sine[i];
          low[i] = a * cosine[i] - b * s;
          high[i] = b * cosine[i] + a * s;
        }
      }
    }
  });
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
