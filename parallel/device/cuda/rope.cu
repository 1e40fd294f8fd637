// Rotary position embedding: a thread takes N pairs of one head of one token.
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 256;

// parts: threads a token, half / N for each head.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(int64_t total, int parts, int half, T* __restrict__ x, const int32_t* __restrict__ position,
                const float* __restrict__ table, float sign) {
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= total) return;
  const int64_t token = at / parts;
  const int a_head = half / N, part = int(at - token * parts), head = part / a_head;
  const int i = (part - head * a_head) * N;
  T* low = x + (token * (parts / a_head) + head) * 2 * half + i;
  float a[N], b[N], cosine[N], sine[N];
  load<N>(low, a);
  load<N>(low + half, b);
  const float* angles = table + int64_t(position[token]) * 2 * half + i;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    cosine[j] = angles[j];
    sine[j] = sign * angles[half + j];
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float old = a[j];
    a[j] = old * cosine[j] - b[j] * sine[j];
    b[j] = b[j] * cosine[j] + old * sine[j];
  }
  store<N>(low, a);
  store<N>(low + half, b);
}

}  // namespace

template <class T>
void CudaKernels<T>::rope(Queue& queue, View<T, 3> x, View<const int32_t, 1> position, View<const W, 2> table,
                          bool inverse) {
  const int64_t tokens = x.dim(0);
  const int heads = int(x.dim(1)), half = int(x.dim(2) / 2);
  if (x.size() == 0) return;
  const bool vector = half % kVec<T> == 0 && aligned16(x.data());
  const int parts = heads * (vector ? half / kVec<T> : half);
  const int64_t total = tokens * parts;
  const auto kernel = vector ? rope_kernel<native_t<T>, kVec<T>> : rope_kernel<native_t<T>, 1>;
  kernel<<<unsigned(ceil_div(total, kThreads)), kThreads, 0, stream(queue)>>>(
      total, parts, half, raw(x), position.data(), table.data(), inverse ? -1.0f : 1.0f);
  launched();
}

template struct CudaKernels<float>;  // the member defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
