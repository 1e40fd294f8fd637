// Whether two arrays hold the same bits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace cadre::device::cuda {

// bytes: a multiple of 2. Waits for the stream.
bool equal_bits(cudaStream_t stream, const void* a, const void* b, size_t bytes);

}  // namespace cadre::device::cuda
