#include "parallel/device/cuda/equal_bits.h"

#include <cstdint>

#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"

namespace cadre::device::cuda {
namespace {

// Writes 1 to `differs` where anything does: all writers write the same, so that their order does not matter.
__global__ void compare_kernel(size_t n, const uint16_t* __restrict__ a, const uint16_t* __restrict__ b,
                               int* differs) {
  const size_t step = size_t(gridDim.x) * blockDim.x;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    if (a[i] != b[i]) *differs = 1;
  }
}

}  // namespace

bool equal_bits(cudaStream_t stream, const void* a, const void* b, size_t bytes) {
  int* differs = reinterpret_cast<int*>(accelerator_cuda().allocate(sizeof(int)));
  int result = 0;
  check(cudaMemsetAsync(differs, 0, sizeof(int), stream));
  compare_kernel<<<1024, 256, 0, stream>>>(bytes / 2, static_cast<const uint16_t*>(a),
                                           static_cast<const uint16_t*>(b), differs);
  check(cudaGetLastError());
  check(cudaMemcpyAsync(&result, differs, sizeof(int), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaFree(differs));
  return result == 0;
}

}  // namespace cadre::device::cuda
