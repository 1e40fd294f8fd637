#include "parallel/device/cuda/image.h"

#include <cuda_runtime.h>

namespace cadre::device::cuda {
namespace {

__global__ void no_work() {}

}  // namespace

bool has_code_for_current_device() {
  cudaFuncAttributes attributes;
  const bool found = cudaFuncGetAttributes(&attributes, no_work) == cudaSuccess;
  (void)cudaGetLastError();  // a missing image is an answer here, not an error for the next call to find
  return found;
}

}  // namespace cadre::device::cuda
