// The router's product for few tokens, in one launch of many small tiles.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::moe::cuda {

// As MoeKernels::router_linear, for rows and bases of 16 bytes; false, and nothing is done, for many tokens.
bool logits_of_few(cudaStream_t stream, const __nv_bfloat16* x, const __nv_bfloat16* w, int64_t tokens,
                   int dim, int64_t experts, float* logits);

}  // namespace cadre::moe::cuda
