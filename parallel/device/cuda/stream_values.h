// Numbers in memory by which streams wait for each other and for the host: operations of the stream itself (CUDA driver API,
// "Stream Memory Operations"), which take no place on a multiprocessor.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::device::cuda {

// When the stream has done what it was given so far. Throws Error(kComm) where the stream takes no such operation.
void write_value(cudaStream_t stream, uint64_t* address, uint64_t value);
// What the stream is given from now on comes after *address reached `at_least`.
void wait_value(cudaStream_t stream, uint64_t* address, uint64_t at_least);

}  // namespace cadre::device::cuda
