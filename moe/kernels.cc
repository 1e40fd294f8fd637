// The tables of MoeKernels by device and storage type.
#include "moe/kernels.h"

#include "moe/cuda/entries.h"
#include "moe/one_expert.h"
#include "parallel/base/errors.h"
#include "parallel/device/backends.h"

namespace cadre::moe {

template <class T>
const MoeKernels<T>& moe_kernels(device::DeviceKind device) {
  if constexpr (device::kCpuHas<T>) {
    if (device == device::DeviceKind::kCpu) return cpu_moe_kernels<T>();
  }
  if constexpr (device::kCudaHas<T>) {
    if (device == device::DeviceKind::kCuda) return cuda_moe_kernels<T>();
  }
  fail(ExitCode::kUsage, "this build has no expert kernels for this device and number type; set device: cpu");
}
template const MoeKernels<float>& moe_kernels(device::DeviceKind);
template const MoeKernels<double>& moe_kernels(device::DeviceKind);
template const MoeKernels<device::bf16>& moe_kernels(device::DeviceKind);

template <class T>
const OneExpert<T>* one_expert(device::DeviceKind device, int64_t rows,
                               std::span<const device::View<const T, 2>> operands) {
  const auto choose = moe_kernels<T>(device).one_expert;
  return choose == nullptr ? nullptr : choose(rows, operands);
}
#define CADRE_ONE_EXPERT(T)                                            \
  template const OneExpert<T>* one_expert(device::DeviceKind, int64_t, \
                                          std::span<const device::View<const T, 2>>)
CADRE_ONE_EXPERT(float);
CADRE_ONE_EXPERT(double);
CADRE_ONE_EXPERT(device::bf16);

}  // namespace cadre::moe
