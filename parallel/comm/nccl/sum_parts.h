// out = the sum over ranks of their parts, in rank order, so that all ranks get the same bits. bf16 is added in fp32 and
// rounded once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::comm::nccl {

struct Parts {
  const void* own;     // (count), this rank's
  const void* staged;  // the other ranks', one after the other by rank
  int64_t stride;      // elements from one of these to the next
  int rank, ranks;     // of the group
  int64_t count;       // elements
  void* out;           // (count); may be own
};
// On the stream; return at once.
void sum_bf16(cudaStream_t stream, const Parts& parts);
void sum_float(cudaStream_t stream, const Parts& parts);
void sum_double(cudaStream_t stream, const Parts& parts);
void sum_int32(cudaStream_t stream, const Parts& parts);
void sum_int64(cudaStream_t stream, const Parts& parts);

}  // namespace cadre::comm::nccl
