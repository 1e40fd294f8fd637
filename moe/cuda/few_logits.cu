#include "moe/cuda/few_logits.h"

#include "moe/cuda/mma.cuh"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::cuda::launch_behind;
using device::cuda::let_next_come;
using device::cuda::prefetch;
using device::cuda::wait_for_kernel_before;

// For few tokens, of which tiles of 128 would keep one multiprocessor busy: a block makes 16 tokens by 8 experts, its
// warps share out the contraction in pieces of 32 and their sums are added in order. A lane takes 8 values next to each
// other along the contraction, as both operands may be permuted along it alike. So the sum of a logit does not
// depend on how many tokens there are.
constexpr int kMostTokens = 1024, kWarps = 8;

__global__ void __launch_bounds__(32 * kWarps)
    few_linear(const __nv_bfloat16* x, const __nv_bfloat16* w, int64_t tokens, int dim, int64_t experts,
               float* logits) {
  __shared__ float sums[kWarps][16 * 8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, part = lane % 4;
  const int64_t first = int64_t(blockIdx.y) * 16 + row, expert = int64_t(blockIdx.x) * 8 + row;
  float d[4] = {};
  // The router's values are of no kernel before, and in the cache by the time that the tokens are there.
  for (int k = (warp * 4 + part) * 8; k < dim && expert < experts; k += kWarps * 32)
    prefetch(w + expert * dim + k);
  wait_for_kernel_before();
  let_next_come();
#pragma unroll 4
  for (int k = (warp * 4 + part) * 8; k < (dim + 31) / 32 * 32; k += kWarps * 32) {
    const auto eight = [&](const __nv_bfloat16* matrix, int64_t r, int64_t rows) {
      return r < rows && k < dim ? *reinterpret_cast<const uint4*>(matrix + r * dim + k) : uint4{};
    };
    const uint4 low = eight(x, first, tokens), high = eight(x, first + 8, tokens),
                b = eight(w, expert, experts);
    multiply_add(d, {low.x, high.x, low.y, high.y}, b.x, b.y);
    multiply_add(d, {low.z, high.z, low.w, high.w}, b.z, b.w);
  }
  float* own = sums[warp];
  own[row * 8 + part * 2] = d[0];
  own[row * 8 + part * 2 + 1] = d[1];
  own[(row + 8) * 8 + part * 2] = d[2];
  own[(row + 8) * 8 + part * 2 + 1] = d[3];
  __syncthreads();
  const int64_t token = int64_t(blockIdx.y) * 16 + threadIdx.x / 8;
  if (threadIdx.x >= 16 * 8 || token >= tokens) return;
  float sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += sums[i][threadIdx.x];
  logits[token * experts + blockIdx.x * 8 + threadIdx.x % 8] = sum;
}

}  // namespace

bool logits_of_few(cudaStream_t stream, const __nv_bfloat16* x, const __nv_bfloat16* w, int64_t tokens,
                   int dim, int64_t experts, float* logits) {
  if (tokens > kMostTokens) return false;
  launch_behind(stream, few_linear, dim3(unsigned(experts / 8), unsigned((tokens + 15) / 16)), 32 * kWarps, x,
                w, tokens, dim, experts, logits);
  return true;
}

}  // namespace cadre::moe::cuda
