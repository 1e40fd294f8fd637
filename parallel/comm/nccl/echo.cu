#include "parallel/comm/nccl/echo.h"

#include <algorithm>
#include <cstdint>

#include "parallel/device/cuda/check.h"

namespace cadre::comm::nccl {
namespace {

constexpr int kThreads = 256;

// count and stride in elements of T.
template <class T>
__global__ void echo_kernel(const T* from, int64_t count, T* to, int64_t stride, int times) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * blockDim.x) {
    const T value = from[i];
    for (int t = 0; t < times; ++t) to[t * stride + i] = value;
  }
}

template <class T>
void launch(cudaStream_t stream, const void* from, size_t bytes, void* to, size_t stride, int times) {
  const int64_t count = int64_t(bytes / sizeof(T));
  const unsigned blocks = unsigned(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, 1024));
  echo_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const T*>(from), count, static_cast<T*>(to),
                                               int64_t(stride / sizeof(T)), times);
  device::cuda::check(cudaGetLastError());
}

}  // namespace

void echo(cudaStream_t stream, const void* from, size_t bytes, void* to, size_t stride, int times) {
  if (bytes == 0 || times == 0) return;
  const auto whole = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % sizeof(uint4) == 0; };
  const bool packed = whole(from) && whole(to) && bytes % sizeof(uint4) == 0 && stride % sizeof(uint4) == 0;
  (packed ? launch<uint4> : launch<char>)(stream, from, bytes, to, stride, times);
}

}  // namespace cadre::comm::nccl
