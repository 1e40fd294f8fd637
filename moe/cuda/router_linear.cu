// The router's matrix on CUDA: logits in fp32 from activations of any storage type, and back. bf16 runs on the
// tensor cores; there a gradient of the logits, which is fp32, goes in as the sum of two bf16 values, so that
// 16 of its bits count and not 8.
#include "moe/cuda/entries.h"
#include "moe/cuda/few_logits.h"
#include "moe/cuda/grouped_products.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/mma_tile.cuh"
#include "moe/cuda/simple_gemm.cuh"

namespace cadre::moe::cuda {
namespace {

using device::bf16;
using device::Queue;
using device::View;
using device::cuda::check;
using Bf16 = __nv_bfloat16;

constexpr int64_t kTokensOfPart = 1024;  // of one sum of the weight gradient

dim3 grid_of(int64_t tile, int64_t m, int64_t n, int64_t parts = 1) {
  return dim3(blocks_for(n, tile), blocks_for(m, tile), unsigned(parts));
}

// to[i] += sum over the parts of sums[part][half][i], in order; sums (parts, halves, size).
template <class N>
__global__ void add_parts(const float* sums, int parts, int64_t size, N* to) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
  for (int p = 0; p < parts; ++p) sum += sums[p * size + i];
  to[i] = N(to_float(to[i]) + sum);
}

// ---- Any type and shape ----

template <class N>
void plain_linear(cudaStream_t stream, const N* x, const N* w, int64_t tokens, int64_t dim, int64_t experts,
                  float* logits) {
  simple_gemm<<<grid_of(kSimpleTile, tokens, experts), kSimpleThreads, 0, stream>>>(
      SimpleProduct<N, N, float>{x, dim, 1, w, 1, dim, logits, experts, tokens, experts, dim, false});
  check(cudaGetLastError());
}

// sums (parts, E, D): dlogits^T x over a part of the tokens.
template <class N>
__global__ void __launch_bounds__(kSimpleThreads)
    plain_parts(const float* dlogits, const N* x, float* sums, int64_t tokens, int64_t experts, int64_t dim) {
  const int64_t begin = blockIdx.z * kTokensOfPart;
  simple_tile(SimpleProduct<float, N, float>{dlogits + begin * experts, 1, experts, x + begin * dim, dim, 1,
                                             sums + blockIdx.z * experts * dim, dim, experts, dim,
                                             min(kTokensOfPart, tokens - begin), false},
              int64_t(blockIdx.y) * kSimpleTile, int64_t(blockIdx.x) * kSimpleTile);
}

template <class N>
void plain_backward(Queue& queue, const float* dlogits, const N* x, const N* w, int64_t tokens, int64_t dim,
                    int64_t experts, N* dx, N* dw) {
  const cudaStream_t stream = stream_of(queue);
  simple_gemm<<<grid_of(kSimpleTile, tokens, dim), kSimpleThreads, 0, stream>>>(
      SimpleProduct<float, N, N>{dlogits, experts, 1, w, dim, 1, dx, dim, tokens, dim, experts, true});
  check(cudaGetLastError());
  const int64_t parts = blocks_for(tokens, kTokensOfPart), size = experts * dim;
  auto* sums = reinterpret_cast<float*>(scratch_of(queue, size_t(parts * size) * sizeof(float)));
  plain_parts<<<grid_of(kSimpleTile, experts, dim, parts), kSimpleThreads, 0, stream>>>(dlogits, x, sums,
                                                                                        tokens, experts, dim);
  check(cudaGetLastError());
  add_parts<<<blocks_for(size, 256), 256, 0, stream>>>(sums, int(parts), size, dw);
  check(cudaGetLastError());
}

// ---- bf16 on the tensor cores ----

__global__ void __launch_bounds__(kMmaThreads)
    mma_linear(const Bf16* x, const Bf16* w, int64_t tokens, int64_t dim, int64_t experts, float* logits) {
  tile_product<false, false>({x, dim, tokens, dim}, {w, dim, experts, dim},
                             Output<float>{logits, experts, tokens, experts, false},
                             int64_t(blockIdx.y) * kMmaTile, int64_t(blockIdx.x) * kMmaTile, dim);
}

// halves (T, 2 E): the upper bf16 of dlogits, then what is left of it. offsets: one group of all tokens.
__global__ void split_gradient(const float* dlogits, int64_t tokens, int64_t experts, Bf16* halves,
                               int64_t* offsets) {
  if (blockIdx.x == 0 && threadIdx.x < 2) offsets[threadIdx.x] = threadIdx.x * tokens;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < tokens * experts;
       i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t t = i / experts, e = i - t * experts;
    const Bf16 upper = Bf16(dlogits[i]);
    halves[t * 2 * experts + e] = upper;
    halves[(t * 2 + 1) * experts + e] = Bf16(dlogits[i] - to_float(upper));
  }
}

// sums (parts, 2 E, D)
__global__ void __launch_bounds__(kMmaThreads)
    mma_parts(const Bf16* halves, const Bf16* x, float* sums, int64_t tokens, int64_t experts, int64_t dim) {
  const int64_t begin = blockIdx.z * kTokensOfPart, count = min(kTokensOfPart, tokens - begin);
  tile_product<true, true>({halves + begin * 2 * experts, 2 * experts, count, 2 * experts},
                           {x + begin * dim, dim, count, dim},
                           Output<float>{sums + blockIdx.z * 2 * experts * dim, dim, 2 * experts, dim, false},
                           int64_t(blockIdx.y) * kMmaTile, int64_t(blockIdx.x) * kMmaTile, count);
}

template <class Kernel>
Kernel with_shared(Kernel kernel) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMmaSharedBytes));
  return kernel;
}

void mma_backward(Queue& queue, const float* dlogits, const Bf16* x, const Bf16* w, int64_t tokens,
                  int64_t dim, int64_t experts, Bf16* dx, Bf16* dw) {
  const cudaStream_t stream = stream_of(queue);
  const int64_t parts = blocks_for(tokens, kTokensOfPart), size = experts * dim;
  auto* offsets = reinterpret_cast<int64_t*>(
      scratch_of(queue, 16 + size_t(parts * 2 * size) * 4 + size_t(2 * size + tokens * 2 * experts) * 2));
  auto* sums = reinterpret_cast<float*>(offsets + 2);
  auto* w_twice = reinterpret_cast<Bf16*>(sums + parts * 2 * size);
  Bf16* halves = w_twice + 2 * size;
  split_gradient<<<blocks_for(tokens * experts, 1024), 256, 0, stream>>>(dlogits, tokens, experts, halves,
                                                                         offsets);
  check(cudaGetLastError());
  for (int i = 0; i < 2; ++i)
    check(cudaMemcpyAsync(w_twice + i * size, w, size_t(size) * 2, cudaMemcpyDeviceToDevice, stream));
  // dx += halves [w; w], a grouped product of one group.
  const auto& products = compute_capability() == 90 ? hopper_products() : ampere_products();
  products.dgrad(stream, {reinterpret_cast<const bf16*>(halves), {tokens, 2 * experts}},
                 {reinterpret_cast<const bf16*>(w_twice), {1, 2 * experts, dim}}, {offsets, {2}}, true,
                 {reinterpret_cast<bf16*>(dx), {tokens, dim}});
  with_shared(
      mma_parts)<<<grid_of(kMmaTile, 2 * experts, dim, parts), kMmaThreads, kMmaSharedBytes, stream>>>(
      halves, x, sums, tokens, experts, dim);
  check(cudaGetLastError());
  add_parts<<<blocks_for(size, 256), 256, 0, stream>>>(sums, int(2 * parts), size, dw);
  check(cudaGetLastError());
}

template <class T>
void router_linear(Queue& queue, View<const T, 2> x, View<const T, 2> w, View<float, 2> logits) {
  const int64_t tokens = x.dim(0), dim = x.dim(1), experts = w.dim(0);
  if (tokens == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (in_units({x.data(), w.data()}, {dim, experts})) {
      if (logits_of_few(stream_of(queue), native(x.data()), native(w.data()), tokens, int(dim), experts,
                        logits.data()))
        return;
      with_shared(
          mma_linear)<<<grid_of(kMmaTile, tokens, experts), kMmaThreads, kMmaSharedBytes, stream_of(queue)>>>(
          native(x.data()), native(w.data()), tokens, dim, experts, logits.data());
      return check(cudaGetLastError());
    }
  }
  plain_linear(stream_of(queue), native(x.data()), native(w.data()), tokens, dim, experts, logits.data());
}

template <class T>
void router_linear_backward(Queue& queue, View<const float, 2> dlogits, View<const T, 2> x,
                            View<const T, 2> w, View<T, 2> dx, View<T, 2> dw) {
  const int64_t tokens = x.dim(0), dim = x.dim(1), experts = w.dim(0);
  if (tokens == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (in_units({x.data(), dx.data()}, {dim, experts}))
      return mma_backward(queue, dlogits.data(), native(x.data()), native(w.data()), tokens, dim, experts,
                          native(dx.data()), native(dw.data()));
  }
  plain_backward(queue, dlogits.data(), native(x.data()), native(w.data()), tokens, dim, experts,
                 native(dx.data()), native(dw.data()));
}

}  // namespace

template <class T>
void add_router_entries(MoeKernels<T>& table) {
  table.router_linear = router_linear<T>;
  table.router_linear_backward = router_linear_backward<T>;
}
template void add_router_entries(MoeKernels<float>&);
template void add_router_entries(MoeKernels<bf16>&);

}  // namespace cadre::moe::cuda
