// The router's matrix on CUDA: logits in fp32 from activations of any storage type, and back.
#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/simple_gemm.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::check;

dim3 simple_grid(int64_t m, int64_t n, int64_t parts = 1) {
  return dim3(blocks_for(n, kSimpleTile), blocks_for(m, kSimpleTile), unsigned(parts));
}

template <class T>
void router_linear(Queue& queue, View<const T, 2> x, View<const T, 2> w, View<float, 2> logits) {
  using N = native_t<T>;
  const int64_t tokens = x.dim(0), dim = x.dim(1), experts = w.dim(0);
  if (tokens == 0) return;
  simple_gemm<<<simple_grid(tokens, experts), kSimpleThreads, 0, stream_of(queue)>>>(
      SimpleProduct<N, N, float>{native(x.data()), dim, 1, native(w.data()), 1, dim, logits.data(), experts,
                                 tokens, experts, dim, false});
  check(cudaGetLastError());
}

constexpr int64_t kTokensOfPart = 1024;

// sums (parts, E, D): dlogits^T x over a part of the tokens.
template <class N>
__global__ void __launch_bounds__(kSimpleThreads) weight_parts(const float* dlogits, const N* x, float* sums,
                                                               int64_t tokens, int64_t experts, int64_t dim) {
  const int64_t begin = blockIdx.z * kTokensOfPart;
  simple_tile(SimpleProduct<float, N, float>{dlogits + begin * experts, 1, experts, x + begin * dim, dim, 1,
                                             sums + blockIdx.z * experts * dim, dim, experts, dim,
                                             min(kTokensOfPart, tokens - begin), false},
              int64_t(blockIdx.y) * kSimpleTile, int64_t(blockIdx.x) * kSimpleTile);
}

template <class N>
__global__ void add_parts(const float* sums, int parts, int64_t size, N* to) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
  for (int p = 0; p < parts; ++p) sum += sums[p * size + i];
  to[i] = N(to_float(to[i]) + sum);
}

template <class T>
void router_linear_backward(Queue& queue, View<const float, 2> dlogits, View<const T, 2> x,
                            View<const T, 2> w, View<T, 2> dx, View<T, 2> dw) {
  using N = native_t<T>;
  const int64_t tokens = x.dim(0), dim = x.dim(1), experts = w.dim(0);
  if (tokens == 0) return;
  const cudaStream_t stream = stream_of(queue);
  simple_gemm<<<simple_grid(tokens, dim), kSimpleThreads, 0, stream>>>(
      SimpleProduct<float, N, N>{dlogits.data(), experts, 1, native(w.data()), dim, 1, native(dx.data()), dim,
                                 tokens, dim, experts, true});
  check(cudaGetLastError());
  const int64_t parts = blocks_for(tokens, kTokensOfPart);
  auto* sums = reinterpret_cast<float*>(scratch_of(queue, size_t(parts * experts * dim) * sizeof(float)));
  weight_parts<<<simple_grid(experts, dim, parts), kSimpleThreads, 0, stream>>>(
      dlogits.data(), native(x.data()), sums, tokens, experts, dim);
  check(cudaGetLastError());
  add_parts<<<blocks_for(experts * dim, 256), 256, 0, stream>>>(sums, int(parts), experts * dim,
                                                                native(dw.data()));
  check(cudaGetLastError());
}

}  // namespace

template <class T>
void add_router_entries(MoeKernels<T>& table) {
  table.router_linear = router_linear<T>;
  table.router_linear_backward = router_linear_backward<T>;
}
template void add_router_entries(MoeKernels<float>&);
template void add_router_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
