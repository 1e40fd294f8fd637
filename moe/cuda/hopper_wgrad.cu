#include "moe/cuda/hopper_kernel.cuh"

namespace cadre::moe::cuda {

template void launch_hopper<Form::kWgrad, 1>(const GemmParams&, int, cudaStream_t);
template void launch_hopper<Form::kWgrad, 2>(const GemmParams&, int, cudaStream_t);
template void launch_hopper<Form::kDenseWgrads, 1>(const GemmParams&, int, cudaStream_t);
template void launch_hopper<Form::kDenseWgrads, 2>(const GemmParams&, int, cudaStream_t);

}  // namespace cadre::moe::cuda
