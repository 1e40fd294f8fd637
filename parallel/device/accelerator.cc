#include "parallel/device/accelerator.h"

#include "parallel/base/errors.h"

#if CADRE_CUDA
#include "parallel/device/cuda/accelerator_cuda.h"
#endif

namespace cadre::device {

const std::vector<Accelerator>& accelerators() {
  static const std::vector<Accelerator> table = {
#if CADRE_CUDA
    cuda::accelerator_cuda(),
#endif
  };
  return table;
}

const Accelerator& accelerator(DeviceKind kind) {
  for (const Accelerator& entry : accelerators()) {
    if (entry.kind == kind) return entry;
  }
  fail(ExitCode::kUsage,
       "this build has no CUDA backend; configure it with `cmake --preset cuda`, or set device: cpu");
}

}  // namespace cadre::device
