// The tables of OptimKernels by device and storage type.
#include "optim/kernels.h"

#include "parallel/base/errors.h"
#include "parallel/device/bf16.h"
#if CADRE_CUDA
#include "optim/cuda/kernels_cuda.h"
#endif

namespace cadre::optim {

// The CPU has none for bf16, CUDA none for double.
template <class T>
const OptimKernels<T>& optim_kernels(device::DeviceKind device) {
  if constexpr (!std::is_same_v<T, device::bf16>) {
    if (device == device::DeviceKind::kCpu) return cpu_optim_kernels<T>();
  }
#if CADRE_CUDA
  if constexpr (!std::is_same_v<T, double>) {
    if (device == device::DeviceKind::kCuda) return cuda_optim_kernels<T>();
  }
#endif
  fail(ExitCode::kUsage,
       "this build has no optimizer kernels for this device and number type; set device: cpu");
}
template const OptimKernels<float>& optim_kernels(device::DeviceKind);
template const OptimKernels<double>& optim_kernels(device::DeviceKind);
template const OptimKernels<device::bf16>& optim_kernels(device::DeviceKind);

}  // namespace cadre::optim
