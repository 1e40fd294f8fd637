// Turns CUDA's status codes into exceptions.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <source_location>
#include <stdexcept>

namespace cadre::device::cuda {

// For calls that fail only when something is broken. Failures that a user can mend get a message of their
// own.
inline void check(cudaError_t status, std::source_location at = std::source_location::current()) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(fmt::format("CUDA: {} ({}) at {}:{}", cudaGetErrorString(status),
                                       cudaGetErrorName(status), at.file_name(), at.line()));
}

}  // namespace cadre::device::cuda
