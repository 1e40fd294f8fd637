#include "trainer/run/peak.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace cadre::trainer {

double sgemm_flops(int64_t n, int threads, int repeats) {
  const std::vector<float> a(size_t(n * n), 0.5f), b(size_t(n * n), 0.25f);
  std::vector<float> c(size_t(n * n));
  const int before = openblas_get_num_threads();
  openblas_set_num_threads(threads);
  double best = 0;
  for (int i = 0; i <= repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, int(n), int(n), int(n), 1.0f, a.data(), int(n),
                b.data(), int(n), 0.0f, c.data(), int(n));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i > 0) best = std::max(best, 2.0 * double(n) * double(n) * double(n) / seconds);
  }
  openblas_set_num_threads(before);
  return best;
}

}  // namespace cadre::trainer
