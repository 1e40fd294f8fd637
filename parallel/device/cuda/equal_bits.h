// What two arrays hold, as bits: for trying algorithms of a product against each other.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace cadre::device::cuda {

// Whether two arrays hold the same bits. bytes: a multiple of 2. Waits for the stream.
bool equal_bits(cudaStream_t stream, const void* a, const void* b, size_t bytes);
// Whether a sixteenth of an array's words of 16 bits, or more, are not 0, whatever their sign bit. Likewise.
bool has_many_values(cudaStream_t stream, const void* data, size_t bytes);

}  // namespace cadre::device::cuda
