// The BLAS calls of the CPU kernels, overloaded for float and double. Each call runs on the calling thread
// alone: kernels split their work over the queue's threads themselves, and cpu_kernels() tells OpenBLAS to
// use one.
#pragma once

#include <cblas.h>

#include <cstdint>

namespace cadre::device {

// Row-major C (m, n) = alpha op(A) op(B) + beta C with leading dimensions in elements.
inline void blas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                      const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                      int64_t ldc) {
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans,
              int(m), int(n), int(k), alpha, a, int(lda), b, int(ldb), beta, c, int(ldc));
}
inline void blas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                      const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
                      int64_t ldc) {
  cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans,
              int(m), int(n), int(k), alpha, a, int(lda), b, int(ldb), beta, c, int(ldc));
}

// y (m) = alpha A x + beta y, A row-major (m, n).
inline void blas_gemv(int64_t m, int64_t n, float alpha, const float* a, int64_t lda, const float* x,
                      float beta, float* y) {
  cblas_sgemv(CblasRowMajor, CblasNoTrans, int(m), int(n), alpha, a, int(lda), x, 1, beta, y, 1);
}
inline void blas_gemv(int64_t m, int64_t n, double alpha, const double* a, int64_t lda, const double* x,
                      double beta, double* y) {
  cblas_dgemv(CblasRowMajor, CblasNoTrans, int(m), int(n), alpha, a, int(lda), x, 1, beta, y, 1);
}

}  // namespace cadre::device
