// CUDA's table of kernels for influence scores, for T = float and bf16.
#pragma once

#include "trainer/influence/kernels.h"

namespace cadre::trainer {

template <class T>
const InfluenceKernels<T>& cuda_influence_kernels();

}  // namespace cadre::trainer
