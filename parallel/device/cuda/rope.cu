// Rotary position embedding: a thread takes N pairs of several heads of one token, whose angles it reads once.
#include <algorithm>
#include <cassert>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/multiprocessors.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 256, kBlocks = 4;  // blocks on a multiprocessor

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

// N elements as in memory: floats would take twice the registers, and so many threads fewer.
template <class T, int N>
struct Held {
  static constexpr bool kVector = N == kVec<T>;
  std::conditional_t<kVector, uint4, T> bits;
  __device__ void read(const T* p) { bits = *reinterpret_cast<const decltype(bits)*>(p); }
  __device__ void get(float (&out)[N]) const {
    if constexpr (kVector) {
      unpack<T>(bits, out);
    } else {
      static_assert(N == 1);
      out[0] = to_float(bits);
    }
  }
};

// The kHeads heads of a thread lie `stride` heads apart; angles: cosines of its pairs, whose sines are `half` further.
template <class T, int N, int kHeads>
__device__ void rotate(T* first, int stride, int half, const float* angles, float sign) {
  Held<T, N> lower[kHeads], upper[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const T* low = first + int64_t(h) * stride * 2 * half;
    lower[h].read(low);
    upper[h].read(low + half);
  }
  float cosine[N], sine[N];
  load_angles<N>(angles, cosine);
  load_angles<N>(angles + half, sine);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float a[N], b[N];
    lower[h].get(a);
    upper[h].get(b);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float old = a[j], turn = sign * sine[j];
      a[j] = old * cosine[j] - b[j] * turn;
      b[j] = b[j] * cosine[j] + old * turn;
    }
    T* low = first + int64_t(h) * stride * 2 * half;
    store<N>(low, a);
    store<N>(low + half, b);
  }
}

// A block's threads along x take the parts of a head, along y heads, along z tokens, so that what a warp reads at a time
// is contiguous and no index has to be divided; blocks along y take tensors that share positions. Each position is read
// while the token before is rotated: its angles would wait for it. kHeads > 1: a block has a thread for every part.
template <class T, int N, int kHeads>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rope_kernel(int64_t positions, int stride, int half, T* x, const int32_t* position, const float* table,
                float sign) {
  wait_for_kernel_before();
  const int64_t step = int64_t(gridDim.x) * blockDim.z, width = int64_t(stride) * kHeads * 2 * half;
  int64_t token = int64_t(blockIdx.x) * blockDim.z + threadIdx.z;
  T* row = x + (blockIdx.y * positions + token) * width;
  int32_t next = token < positions ? position[token] : 0;
  for (; token < positions; token += step, row += step * width) {
    const float* angles = table + int64_t(next) * 2 * half;
    if (token + step < positions) next = position[token + step];
    if constexpr (kHeads > 1) {
      const int i = int(threadIdx.x) * N;
      rotate<T, N, kHeads>(row + int(threadIdx.y) * 2 * half + i, stride, half, angles + i, sign);
    } else {
      for (int head = int(threadIdx.y); head < stride; head += int(blockDim.y)) {
        for (int i = int(threadIdx.x) * N; i < half; i += int(blockDim.x) * N)
          rotate<T, N, 1>(row + head * 2 * half + i, stride, half, angles + i, sign);
      }
    }
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
  const int parts = half / (vector ? kVec<T> : 1);
  const bool pairs = vector && heads % 2 == 0 && parts * (heads / 2) <= kThreads;
  const int stride = pairs ? heads / 2 : heads;
  const int64_t positions = position.dim(0), times = tokens / positions;
  assert(tokens == times * positions);
  const int along_x = std::min(parts, kThreads), along_y = std::min(stride, kThreads / along_x),
            along_z = std::min(64, kThreads / (along_x * along_y));
  // As many as run at a time; a token's angles do not depend on who takes it.
  const int64_t most = ceil_div(int64_t(multiprocessors()) * kBlocks, times);
  const auto kernel = pairs    ? rope_kernel<E, kVec<T>, 2>
                      : vector ? rope_kernel<E, kVec<T>, 1>
                               : rope_kernel<E, 1, 1>;
  launch_behind(stream(queue), kernel,
                dim3(unsigned(std::min(ceil_div(positions, along_z), most)), unsigned(times)),
                dim3(unsigned(along_x), unsigned(along_y), unsigned(along_z)), positions, stride, half,
                raw(x), position.data(), table.data(), inverse ? -1.0f : 1.0f);
}

template struct CudaKernels<float>;  // the member defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
