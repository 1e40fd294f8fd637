// The tables of DeviceKernels by device and storage type.
#include "parallel/device/kernels.h"

#include "parallel/base/errors.h"
#include "parallel/device/backends.h"
#include "parallel/device/cuda/kernels_cuda.h"

namespace cadre::device {

template <class T>
const DeviceKernels<T>& device_kernels(DeviceKind device) {
  if constexpr (kCpuHas<T>) {
    if (device == DeviceKind::kCpu) return cpu_kernels<T>();
  }
  if constexpr (kCudaHas<T>) {
    if (device == DeviceKind::kCuda) return cuda_kernels<T>();
  }
  fail(ExitCode::kUsage, "this build has no dense kernels for this device and number type; set device: cpu");
}
template const DeviceKernels<float>& device_kernels(DeviceKind);
template const DeviceKernels<double>& device_kernels(DeviceKind);
template const DeviceKernels<bf16>& device_kernels(DeviceKind);

}  // namespace cadre::device
