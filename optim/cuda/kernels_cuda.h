// CUDA's table of optimizer kernels, for T = float and bf16.
#pragma once

#include "optim/kernels.h"

namespace cadre::optim {

template <class T>
const OptimKernels<T>& cuda_optim_kernels();

}  // namespace cadre::optim
