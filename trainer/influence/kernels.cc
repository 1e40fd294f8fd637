// The tables of InfluenceKernels by device and storage type.
#include "trainer/influence/kernels.h"

#include "parallel/base/errors.h"
#include "parallel/device/bf16.h"
#if CADRE_CUDA
#include "trainer/influence/cuda/kernels_cuda.h"
#endif

namespace cadre::trainer {

// The CPU has none for bf16, CUDA none for double.
template <class T>
const InfluenceKernels<T>& influence_kernels(device::DeviceKind device) {
  if constexpr (!std::is_same_v<T, device::bf16>) {
    if (device == device::DeviceKind::kCpu) return cpu_influence_kernels<T>();
  }
#if CADRE_CUDA
  if constexpr (!std::is_same_v<T, double>) {
    if (device == device::DeviceKind::kCuda) return cuda_influence_kernels<T>();
  }
#endif
  fail(ExitCode::kUsage,
       "this build has no kernels of influence scores for this device and number type; set device: cpu");
}
template const InfluenceKernels<float>& influence_kernels(device::DeviceKind);
template const InfluenceKernels<double>& influence_kernels(device::DeviceKind);
template const InfluenceKernels<device::bf16>& influence_kernels(device::DeviceKind);

}  // namespace cadre::trainer
