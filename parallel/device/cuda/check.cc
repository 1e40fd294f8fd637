#include "parallel/device/cuda/check.h"

#include <fmt/format.h>

#include <stdexcept>

namespace cadre::device::cuda {

void throw_cuda_error(cudaError_t status, std::source_location at) {
  throw std::runtime_error(fmt::format("CUDA: {} ({}) at {}:{}", cudaGetErrorString(status),
                                       cudaGetErrorName(status), at.file_name(), at.line()));
}

}  // namespace cadre::device::cuda
