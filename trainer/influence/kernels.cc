// The tables of InfluenceKernels by device and storage type.
#include "trainer/influence/kernels.h"

#include "parallel/base/errors.h"
#include "parallel/device/backends.h"
#include "trainer/influence/cuda/kernels_cuda.h"

namespace cadre::trainer {

template <class T>
const InfluenceKernels<T>& influence_kernels(device::DeviceKind device) {
  if constexpr (device::kCpuHas<T>) {
    if (device == device::DeviceKind::kCpu) return cpu_influence_kernels<T>();
  }
  if constexpr (device::kCudaHas<T>) {
    if (device == device::DeviceKind::kCuda) return cuda_influence_kernels<T>();
  }
  fail(ExitCode::kUsage,
       "this build has no kernels of influence scores for this device and number type; set device: cpu");
}
template const InfluenceKernels<float>& influence_kernels(device::DeviceKind);
template const InfluenceKernels<double>& influence_kernels(device::DeviceKind);
template const InfluenceKernels<device::bf16>& influence_kernels(device::DeviceKind);

}  // namespace cadre::trainer
