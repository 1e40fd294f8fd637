#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

__global__ void follow_drawn_kernel(int rows, const int32_t* drawn, const int32_t* follows,
                                    int32_t* __restrict__ token) {
  const int row = int(blockIdx.x * blockDim.x + threadIdx.x);
  wait_for_kernel_before();
  let_next_come();
  if (row < rows && follows[row] >= 0) token[row] = drawn[follows[row]];
}

}  // namespace

template <class T>
void CudaKernels<T>::follow_drawn(Queue& queue, View<const int32_t, 1> drawn, View<const int32_t, 1> follows,
                                  View<int32_t, 1> token) {
  if (token.size() == 0) return;
  constexpr int kThreads = 128;
  launch_behind(stream(queue), follow_drawn_kernel, unsigned(ceil_div(token.size(), kThreads)), kThreads,
                int(token.size()), drawn.data(), follows.data(), token.data());
}

template struct CudaKernels<float>;  // the member defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
