// The tables of DeviceKernels by device and storage type.
#include "parallel/device/kernels.h"

#include "parallel/base/errors.h"
#include "parallel/device/bf16.h"
#if CADRE_CUDA
#include "parallel/device/cuda/kernels_cuda.h"
#endif

namespace cadre::device {

// The CPU has none for bf16, CUDA none for double.
template <class T>
const DeviceKernels<T>& device_kernels(DeviceKind device) {
  if constexpr (!std::is_same_v<T, bf16>) {
    if (device == DeviceKind::kCpu) return cpu_kernels<T>();
  }
#if CADRE_CUDA
  if constexpr (!std::is_same_v<T, double>) {
    if (device == DeviceKind::kCuda) return cuda_kernels<T>();
  }
#endif
  fail(ExitCode::kUsage, "this build has no dense kernels for this device and number type; set device: cpu");
}
template const DeviceKernels<float>& device_kernels(DeviceKind);
template const DeviceKernels<double>& device_kernels(DeviceKind);
template const DeviceKernels<bf16>& device_kernels(DeviceKind);

}  // namespace cadre::device
