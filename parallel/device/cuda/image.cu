#include "parallel/device/cuda/image.h"

#include <algorithm>
#include <iterator>

namespace cadre::device::cuda {
namespace {

// As in __CUDA_ARCH__: 800 for sm_80.
constexpr int kTargets[] = {__CUDA_ARCH_LIST__};

}  // namespace

// Machine code runs on its own target and on later ones of the same major version.
bool has_code_for(int major, int minor) {
  return std::any_of(std::begin(kTargets), std::end(kTargets),
                     [=](int target) { return target / 100 == major && target / 10 % 10 <= minor; });
}

}  // namespace cadre::device::cuda
