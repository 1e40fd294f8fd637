#include "moe/cuda/swiglu.h"

#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {
namespace {

using device::View;
using device::cuda::check;

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ inline float sigmoid_of(float x) {
  return 1.f / (1.f + expf(-x));
}

// One value, or 16 bytes of them.
template <class N, int kCount>
__device__ inline void load_values(const N* p, N (&v)[kCount]) {
  if constexpr (kCount == 1) {
    v[0] = *p;
  } else {
    const Pack<N> pack = load_pack(p);
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = pack.v[i];
  }
}
template <class N, int kCount>
__device__ inline void store_values(N* p, const N (&v)[kCount]) {
  if constexpr (kCount == 1) {
    *p = v[0];
  } else {
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < kCount; ++i) pack.v[i] = v[i];
    store_pack(p, pack);
  }
}

template <class N>
__global__ void swiglu_kernel(const N* gate, const N* up, int64_t size, N* act) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < size;
       i += int64_t(gridDim.x) * blockDim.x) {
    const float x = to_float(gate[i]);
    act[i] = N(x * sigmoid_of(x) * to_float(up[i]));
  }
}

// A warp a row, kCount values of it a lane at a time. silu(x) = x s and silu'(x) = s (1 + x (1 - s)) with s = sigmoid(x).
// Views are sized by the most rows that may come, of which experts that are split over ranks get half or fewer: `end` says
// how many did.
template <class N, int kCount>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const float* weight, const int64_t* end, int64_t width, N* gate, N* up, N* out,
                    float* dweight) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= *end) return;
  N *g = gate + row * width, *u = up + row * width, *o = out + row * width;
  const float w = weight[row];
  float sum = 0;
#pragma unroll 2
  for (int64_t h = lane * kCount; h < width; h += 32 * kCount) {
    N gv[kCount], uv[kCount], ov[kCount];
    load_values(g + h, gv);
    load_values(u + h, uv);
    load_values(o + h, ov);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float x = to_float(gv[i]), v = to_float(uv[i]), d = to_float(ov[i]), s = sigmoid_of(x);
      const float act = x * s * v;
      sum += d * act;
      uv[i] = N(w * d * x * s);
      gv[i] = N(w * d * v * s * (1 + x * (1 - s)));
      ov[i] = N(w * act);
    }
    store_values(u + h, uv);
    store_values(g + h, gv);
    store_values(o + h, ov);
  }
  sum = warp_sum(sum);
  if (lane == 0) dweight[row] = sum;
}

__global__ void add_dots_kernel(const float* partial, int64_t parts, int64_t rows, float* dweight) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= rows) return;
  float sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += partial[p * rows + i];
  dweight[i] = sum;
}

}  // namespace

template <class T>
void swiglu(cudaStream_t stream, View<const T, 2> gate, View<const T, 2> up, View<T, 2> act) {
  if (act.empty()) return;
  swiglu_kernel<<<blocks_for(act.size(), kThreads * 4), kThreads, 0, stream>>>(
      native(gate.data()), native(up.data()), act.size(), native(act.data()));
  check(cudaGetLastError());
}

template <class T>
void swiglu_gate_backward(cudaStream_t stream, View<const int64_t, 1> offsets, View<const float, 1> weight,
                          View<T, 2> gate, View<T, 2> up, View<T, 2> out, View<float, 1> dweight) {
  const int64_t rows = gate.dim(0);
  if (rows == 0) return;
  using N = native_t<T>;
  constexpr int kPack = Pack<N>::kCount;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool packs =
      gate.dim(1) % kPack == 0 && aligned(gate.data()) && aligned(up.data()) && aligned(out.data());
  const auto kernel = packs ? backward_kernel<N, kPack> : backward_kernel<N, 1>;
  kernel<<<blocks_for(rows, kWarps), kThreads, 0, stream>>>(
      weight.data(), offsets.data() + offsets.dim(0) - 1, gate.dim(1), native(gate.data()), native(up.data()),
      native(out.data()), dweight.data());
  check(cudaGetLastError());
}

void add_partial_dots(cudaStream_t stream, View<const float, 2> partial, View<float, 1> dweight) {
  if (dweight.empty()) return;
  add_dots_kernel<<<blocks_for(dweight.size(), kThreads), kThreads, 0, stream>>>(
      partial.data(), partial.dim(0), dweight.size(), dweight.data());
  check(cudaGetLastError());
}

template void swiglu(cudaStream_t, View<const float, 2>, View<const float, 2>, View<float, 2>);
template void swiglu(cudaStream_t, View<const device::bf16, 2>, View<const device::bf16, 2>,
                     View<device::bf16, 2>);
template void swiglu_gate_backward(cudaStream_t, View<const int64_t, 1>, View<const float, 1>, View<float, 2>,
                                   View<float, 2>, View<float, 2>, View<float, 1>);
template void swiglu_gate_backward(cudaStream_t, View<const int64_t, 1>, View<const float, 1>,
                                   View<device::bf16, 2>, View<device::bf16, 2>, View<device::bf16, 2>,
                                   View<float, 1>);

}  // namespace cadre::moe::cuda
