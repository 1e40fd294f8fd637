// out = the sum over ranks of their parts, in rank order: `own` is this rank's, the others' stand in `staged`, one
// after the other by rank, `stride` elements apart. bf16 is added in fp32. out may be own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::comm::nccl {

struct Parts {
  const void *own, *staged;
  int64_t stride;
  int rank, ranks;
  int64_t count;
  void* out;
};
void sum_bf16(cudaStream_t stream, const Parts& parts);
void sum_float(cudaStream_t stream, const Parts& parts);
void sum_double(cudaStream_t stream, const Parts& parts);
void sum_int32(cudaStream_t stream, const Parts& parts);
void sum_int64(cudaStream_t stream, const Parts& parts);

}  // namespace cadre::comm::nccl
