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

// Adds up how many are not 0; of integers, so that the order does not matter.
__global__ void count_kernel(size_t n, const uint16_t* __restrict__ values, unsigned long long* count) {
  const size_t step = size_t(gridDim.x) * blockDim.x;
  unsigned own = 0;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    own += (values[i] & 0x7fff) != 0 ? 1 : 0;
  own = __reduce_add_sync(~0u, own);
  if (threadIdx.x % 32 == 0) atomicAdd(count, static_cast<unsigned long long>(own));
}

// What queue_work(memory) leaves in memory that is 0 before.
template <class U, class Work>
U result_of(cudaStream_t stream, const Work& queue_work) {
  U* memory = reinterpret_cast<U*>(accelerator_cuda().allocate(sizeof(U)));
  U result = 0;
  queue_work(memory);
  check(cudaGetLastError());
  check(cudaMemcpyAsync(&result, memory, sizeof(U), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaFree(memory));
  return result;
}

constexpr unsigned kBlocks = 1024, kThreads = 256;

}  // namespace

bool equal_bits(cudaStream_t stream, const void* a, const void* b, size_t bytes) {
  return result_of<int>(stream, [&](int* differs) {
           compare_kernel<<<kBlocks, kThreads, 0, stream>>>(bytes / 2, static_cast<const uint16_t*>(a),
                                                            static_cast<const uint16_t*>(b), differs);
         }) == 0;
}

bool has_many_values(cudaStream_t stream, const void* data, size_t bytes) {
  const auto count = result_of<unsigned long long>(stream, [&](unsigned long long* to) {
    count_kernel<<<kBlocks, kThreads, 0, stream>>>(bytes / 2, static_cast<const uint16_t*>(data), to);
  });
  return count * 16 >= bytes / 2;
}

}  // namespace cadre::device::cuda
