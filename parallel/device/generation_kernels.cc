#include "parallel/device/generation_kernels.h"

#include "parallel/device/bf16.h"

#if CADRE_CUDA
#include "parallel/device/cuda/place_heads.h"
#endif

namespace cadre::device {

template <class T>
const GenerationKernels<T>& generation_kernels([[maybe_unused]] DeviceKind device) {
#if CADRE_CUDA
  if constexpr (!std::is_same_v<T, double>) {
    static constexpr GenerationKernels<T> kCuda = {cuda::place_heads<T>};
    if (device == DeviceKind::kCuda) return kCuda;
  }
#endif
  static constexpr GenerationKernels<T> kNone;
  return kNone;
}
template const GenerationKernels<float>& generation_kernels<float>(DeviceKind);
template const GenerationKernels<double>& generation_kernels<double>(DeviceKind);
template const GenerationKernels<bf16>& generation_kernels<bf16>(DeviceKind);

}  // namespace cadre::device
