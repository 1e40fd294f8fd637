#include "moe/cuda/group_order.h"

#include "moe/cuda/launch.h"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void order_kernel(const int64_t* offsets, int groups, int32_t* next_and_order) {
  const int own = blockIdx.x * kThreads + threadIdx.x;
  if (own == 0) next_and_order[0] = 0;
  if (own >= groups) return;
  const int64_t size = offsets[own + 1] - offsets[own];
  int place = 0;
  int64_t begin = offsets[0];
  for (int other = 0; other < groups; ++other) {
    const int64_t end = offsets[other + 1], rows = end - begin;
    begin = end;
    place += rows > size || (rows == size && other < own);
  }
  next_and_order[1 + place] = own;
}

}  // namespace

void order_groups(cudaStream_t stream, const int64_t* offsets, int groups, int32_t* next_and_order) {
  device::cuda::launch(stream, order_kernel, blocks_for(groups, kThreads), kThreads, offsets, groups,
                       next_and_order);
}

}  // namespace cadre::moe::cuda
