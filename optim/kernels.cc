// The tables of OptimKernels by device and storage type.
#include "optim/kernels.h"

#include "optim/cuda/kernels_cuda.h"
#include "parallel/base/errors.h"
#include "parallel/device/backends.h"

namespace cadre::optim {

template <class T>
const OptimKernels<T>& optim_kernels(device::DeviceKind device) {
  if constexpr (device::kCpuHas<T>) {
    if (device == device::DeviceKind::kCpu) return cpu_optim_kernels<T>();
  }
  if constexpr (device::kCudaHas<T>) {
    if (device == device::DeviceKind::kCuda) return cuda_optim_kernels<T>();
  }
  fail(ExitCode::kUsage,
       "this build has no optimizer kernels for this device and number type; set device: cpu");
}
template const OptimKernels<float>& optim_kernels(device::DeviceKind);
template const OptimKernels<double>& optim_kernels(device::DeviceKind);
template const OptimKernels<device::bf16>& optim_kernels(device::DeviceKind);

}  // namespace cadre::optim
