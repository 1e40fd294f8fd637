// The launches of the attention kernels of sm_90a, each in a file of its own.
#pragma once

#include "parallel/device/cuda/flash_hopper.cuh"
#include "parallel/device/cuda/multiprocessors.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda::hopper {

template <int kHead>
void launch_forward(const Params&, cudaStream_t);
template <int kHead>
void launch_dkv(const Params&, cudaStream_t);
template <int kHead>
void launch_dq(const Params&, cudaStream_t);

// dk, dv and dq in out, by this many blocks.
void launch_backward(const Params&, int blocks, cudaStream_t);

template <class Kernel>
void launch(const Params& params, cudaStream_t stream) {
  const auto kernel = attention_kernel<Kernel>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kSharedBytes));
  kernel<<<unsigned(multiprocessors()), kThreads, Kernel::kSharedBytes, stream>>>(params);
  launched();
}

// Kernel: of flash_hopper_backward.cu.
template <class Kernel>
void launch_four_roles(const Params& params, int blocks, cudaStream_t stream) {
  const auto kernel = four_roles_kernel<Kernel>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kSharedBytes));
  kernel<<<unsigned(blocks), kFourRoles, Kernel::kSharedBytes, stream>>>(params);
  launched();
}

}  // namespace cadre::device::cuda::hopper
