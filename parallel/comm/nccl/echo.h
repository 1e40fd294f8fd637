// What collectives in imitation receive: this rank's own data, as many times as there are others.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace cadre::comm::nccl {

// `bytes` from `from` to `to`, `to + stride`, ..., `times` times, on the stream; returns at once. The places do not overlap.
void echo(cudaStream_t stream, const void* from, size_t bytes, void* to, size_t stride, int times);

}  // namespace cadre::comm::nccl
