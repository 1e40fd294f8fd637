#include "moe/cuda/hopper_kernel.cuh"

namespace cadre::moe::cuda {

template void launch_hopper<Form::kForward, 1>(const GemmParams&, int, cudaStream_t);

}  // namespace cadre::moe::cuda
