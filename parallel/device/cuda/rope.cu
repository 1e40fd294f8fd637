// Rotary position embedding: a warp takes a token, each of its lanes N pairs of a head at a time.
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kTokens = 8;  // a block, one warp each

template <class T, int N>
__global__ void __launch_bounds__(32 * kTokens)
    rope_kernel(int64_t tokens, int heads, int half, T* __restrict__ x, const int32_t* __restrict__ position,
                const float* __restrict__ table, float sign) {
  const int64_t token = int64_t(blockIdx.x) * kTokens + threadIdx.y;
  if (token >= tokens) return;
  const float* cosine = table + int64_t(position[token]) * 2 * half;
  const float* sine = cosine + half;
  const int a_head = half / N, total = heads * a_head;
#pragma unroll 2
  for (int at = threadIdx.x; at < total; at += 32) {
    const int i = at % a_head * N;
    T* low = x + (token * heads + at / a_head) * 2 * half + i;
    float a[N], b[N];
    load<N>(low, a);
    load<N>(low + half, b);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float c = cosine[i + j], s = sign * sine[i + j], old = a[j];
      a[j] = old * c - b[j] * s;
      b[j] = b[j] * c + old * s;
    }
    store<N>(low, a);
    store<N>(low + half, b);
  }
}

}  // namespace

template <class T>
void CudaKernels<T>::rope(Queue& queue, View<T, 3> x, View<const int32_t, 1> position, View<const W, 2> table,
                          bool inverse) {
  const int64_t tokens = x.dim(0);
  const int heads = int(x.dim(1)), half = int(x.dim(2) / 2);
  if (x.size() == 0) return;
  constexpr int N = kVec<T>;
  const auto kernel =
      half % N == 0 && aligned16(x.data()) ? rope_kernel<native_t<T>, N> : rope_kernel<native_t<T>, 1>;
  kernel<<<unsigned(ceil_div(tokens, kTokens)), dim3(32, kTokens), 0, stream(queue)>>>(
      tokens, heads, half, raw(x), position.data(), table.data(), inverse ? -1.0f : 1.0f);
  launched();
}

template struct CudaKernels<float>;  // the member defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
