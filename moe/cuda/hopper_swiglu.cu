#include "moe/cuda/hopper_kernel.cuh"

namespace cadre::moe::cuda {

template void launch_hopper<Form::kSwiglu, 1>(const GemmParams&, int, cudaStream_t);
template void launch_hopper<Form::kSwigluBackward, 1>(const GemmParams&, int, cudaStream_t);
template void launch_hopper<Form::kDenseSwigluBackward, 1>(const GemmParams&, int, cudaStream_t);

}  // namespace cadre::moe::cuda
