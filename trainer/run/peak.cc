#include "trainer/run/peak.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "parallel/device/accelerator.h"

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

double peak_flops(ModelState& model) {
  comm::Communicator& data = model.mesh.data();
  double own = 0;
  if (model.queue.kind() == device::DeviceKind::kCpu) {
    data.barrier("SGEMM peak");  // ranks of a host share caches and power, so they measure at the same time
    own = sgemm_flops(1024, model.host.num_threads(), 3);
  } else {
    own = device::accelerator(model.queue.kind()).peak_flops;
  }
  return data.all_reduce(own, comm::ReduceOp::kSum, "peak");
}

}  // namespace cadre::trainer
