// GEMM on the CPU: the larger of the output's two sides is cut into one contiguous range a thread, and each
// thread makes one single-threaded BLAS call on its part. Only one operand is then packed more than once.
#include <algorithm>

#include "parallel/device/cpu/blas.h"
#include "parallel/device/cpu/kernels_cpu.h"

namespace cadre::device {

namespace {
constexpr int64_t kBlock = 32;  // cuts fall on multiples of it, a multiple of every micro-kernel's side
constexpr int64_t kMinMultiplyAdds = 1 << 16;  // below this a thread costs more than it brings

int64_t blocks_of(int64_t n) {
  return (n + kBlock - 1) / kBlock;
}
}  // namespace

template <class T>
void CpuKernels<T>::gemm(Queue& queue, View<const T, 2> a, View<const T, 2> b, View<T, 2> c,
                         GemmFlags flags) {
  const int64_t m = c.dim(0), n = c.dim(1), k = flags.transpose_a ? a.dim(0) : a.dim(1);
  assert((flags.transpose_a ? a.dim(1) : a.dim(0)) == m);
  assert((flags.transpose_b ? b.dim(0) : b.dim(1)) == n && (flags.transpose_b ? b.dim(1) : b.dim(0)) == k);
  if (m == 0 || n == 0) return;
  const T alpha = T(flags.alpha), beta = T(flags.beta);
  const int64_t lda = std::max<int64_t>(1, a.dim(1)), ldb = std::max<int64_t>(1, b.dim(1));
  const bool by_rows = m >= n;
  const int64_t side = by_rows ? m : n;
  const int64_t grain = kMinMultiplyAdds / (kBlock * (m + n - side) * std::max<int64_t>(1, k)) + 1;
  cpu(queue).parallel_for(blocks_of(side), grain, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kBlock, count = std::min(last * kBlock, side) - begin;
    if (by_rows) {
      const T* part = a.data() + begin * (flags.transpose_a ? 1 : lda);
      blas_gemm(flags.transpose_a, flags.transpose_b, count, n, k, alpha, part, lda, b.data(), ldb, beta,
                c.data() + begin * n, n);
      return;
    }
    const T* part = b.data() + begin * (flags.transpose_b ? ldb : 1);
    if (m == 1 &&
        flags.transpose_b) {  // one token of generation: bound by reading the weights, so do not pack them
      blas_gemv(count, k, alpha, part, ldb, a.data(), beta, c.data() + begin);
      return;
    }
    blas_gemm(flags.transpose_a, flags.transpose_b, m, count, k, alpha, a.data(), lda, part, ldb, beta,
              c.data() + begin, n);
  });
}
template <class T>
void CpuKernels<T>::gemm_onto(Queue& queue, View<const T, 2> a, View<const T, 2> b, View<const T, 2> plus,
                              View<T, 2> c, GemmFlags flags) {
  const int64_t n = c.size();
  if (flags.beta != 0) copy(queue, plus.template reshape<1>({n}), c.template reshape<1>({n}));
  gemm(queue, a, b, c, flags);
}

template <class T>
void CpuKernels<T>::gemm_batch(Queue& queue, View<const T, 3> a, View<const T, 3> b, View<T, 3> c,
                               GemmFlags flags) {
  for (int64_t i = 0; i < c.dim(0); ++i)
    gemm(queue, a[a.dim(0) > 1 ? i : 0], b[b.dim(0) > 1 ? i : 0], c[i], flags);
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
