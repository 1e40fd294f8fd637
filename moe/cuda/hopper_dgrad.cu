#include "moe/cuda/hopper_kernel.cuh"

namespace cadre::moe::cuda {

template void launch_hopper<Form::kDgrad, 1>(const GemmParams&, int, cudaStream_t);
template void launch_hopper<Form::kDgradSum, 1>(const GemmParams&, int, cudaStream_t);

}  // namespace cadre::moe::cuda
