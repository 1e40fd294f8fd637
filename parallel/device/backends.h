// What the backends of this build have, for the places that choose a table of functions by device and storage type: each
// layer's kernels.cc, and accelerator.cc. Names of a backend that was not built may stand behind `if constexpr` there. Only
// for libraries that cadre_backends() was called for (cmake/CadreTargets.cmake).
#pragma once

#include <type_traits>

#include "parallel/device/bf16.h"

namespace cadre::device {

#if CADRE_CUDA
constexpr bool kBuiltForCuda = true;
#else
constexpr bool kBuiltForCuda = false;
#endif

template <class T>
constexpr bool kCpuHas = !std::is_same_v<T, bf16>;
template <class T>
constexpr bool kCudaHas = kBuiltForCuda && !std::is_same_v<T, double>;

}  // namespace cadre::device
