// Groups by falling size, for kernels whose blocks claim tiles one after the other: with the longest first no block
// is left with a long one at the end.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::moe::cuda {

// next_and_order (1 + groups): a counter, set to 0, and the groups; those of one size stay in their order.
void order_groups(cudaStream_t stream, const int64_t* offsets, int groups, int32_t* next_and_order);

}  // namespace cadre::moe::cuda
