#include "parallel/device/accelerator.h"

#include "parallel/base/errors.h"
#include "parallel/device/backends.h"
#include "parallel/device/cuda/accelerator_cuda.h"

namespace cadre::device {

const std::vector<Accelerator>& accelerators() {
  static const std::vector<Accelerator> table = [] {
    std::vector<Accelerator> built;
    if constexpr (kBuiltForCuda) built.push_back(cuda::accelerator_cuda());
    return built;
  }();
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
