// Rotary position embedding: a thread takes N pairs of several heads of one token, whose angles it reads once.
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 256;

template <int N>
__device__ void load_angles(const float* p, float (&out)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(p + i);
      out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = p[i];
  }
}

// Neighbouring threads take the parts of a head and then the next head; the kHeads heads of a thread lie `stride` heads
// apart, so that what a warp reads at a time is contiguous. Whole vectors number less than 2^32 in any GPU's memory.
template <class T, int N, int kHeads>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(int64_t total, int stride, int half, T* __restrict__ x, int64_t positions,
                const int32_t* __restrict__ position, const float* __restrict__ table, float sign) {
  using Index = std::conditional_t<N == 1, int64_t, uint32_t>;
  wait_for_kernel_before();
  const Index at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (int64_t(at) >= total) return;
  const int a_head = half / N, parts = a_head * stride;
  const Index token = at / Index(parts);
  const int part = int(at - token * Index(parts)), head = part / a_head, i = (part - head * a_head) * N;
  const float* angles = table + int64_t(position[token % Index(positions)]) * 2 * half + i;
  float cosine[N], sine[N], a[kHeads][N], b[kHeads][N];
  T* first = x + (int64_t(token) * stride * kHeads + head) * 2 * half + i;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const T* low = first + int64_t(h) * stride * 2 * half;
    load<N>(low, a[h]);
    load<N>(low + half, b[h]);
  }
  load_angles<N>(angles, cosine);
  load_angles<N>(angles + half, sine);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float old = a[h][j], turn = sign * sine[j];
      a[h][j] = old * cosine[j] - b[h][j] * turn;
      b[h][j] = b[h][j] * cosine[j] + old * turn;
    }
    T* low = first + int64_t(h) * stride * 2 * half;
    store<N>(low, a[h]);
    store<N>(low + half, b[h]);
  }
}

}  // namespace

template <class T>
void CudaKernels<T>::rope(Queue& queue, View<T, 3> x, View<const int32_t, 1> position, View<const W, 2> table,
                          bool inverse) {
  const int64_t tokens = x.dim(0);
  const int heads = int(x.dim(1)), half = int(x.dim(2) / 2);
  if (x.size() == 0) return;
  using E = native_t<T>;
  const bool vector = half % kVec<T> == 0 && all_aligned16(x.data(), table.data());
  const bool several = vector && heads % 4 == 0;
  const int width = vector ? kVec<T> : 1, stride = several ? heads / 4 : heads;
  const int64_t total = tokens * stride * (half / width);
  const auto kernel = several  ? rope_kernel<E, kVec<T>, 4>
                      : vector ? rope_kernel<E, kVec<T>, 1>
                               : rope_kernel<E, 1, 1>;
  launch_behind(stream(queue), kernel, unsigned(ceil_div(total, kThreads)), kThreads, total, stride, half,
                raw(x), position.dim(0), position.data(), table.data(), inverse ? -1.0f : 1.0f);
}

template struct CudaKernels<float>;  // the member defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
