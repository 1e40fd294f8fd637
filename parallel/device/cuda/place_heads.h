// CUDA's entry of GenerationKernels.
#pragma once

#include "parallel/device/generation_kernels.h"

namespace cadre::device::cuda {

// For float and bf16.
template <class T>
void place_heads(Queue& queue, const NewHeads<T>& heads);

}  // namespace cadre::device::cuda
