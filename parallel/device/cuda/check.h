// Turns CUDA's status codes into exceptions. Free of fmt, whose compile-time checks nvcc cannot evaluate.
#pragma once

#include <cuda_runtime_api.h>

#include <source_location>

namespace cadre::device::cuda {

[[noreturn]] void throw_cuda_error(cudaError_t status, std::source_location at);

// For calls that fail only when something is broken. Failures that a user can mend get a message of their
// own.
inline void check(cudaError_t status, std::source_location at = std::source_location::current()) {
  if (status != cudaSuccess) throw_cuda_error(status, at);
}

}  // namespace cadre::device::cuda
