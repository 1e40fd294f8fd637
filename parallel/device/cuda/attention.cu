// Chooses the attention kernels for a shape, and makes what all backward passes need: the sum over each head
// of dout * out.
#include "parallel/device/cuda/attention_general.h"
#include "parallel/device/cuda/flash.h"
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kHeads = 8;  // a block, one warp each

template <class T>
__global__ void __launch_bounds__(32 * kHeads)
    delta_kernel(int64_t heads, int h, const T* __restrict__ dout, const T* __restrict__ out,
                 float* __restrict__ delta) {
  const int64_t head = int64_t(blockIdx.x) * kHeads + threadIdx.y;
  if (head >= heads) return;
  float sum = 0;
  for (int d = int(threadIdx.x); d < h; d += 32)
    sum = fmaf(to_float(dout[head * h + d]), to_float(out[head * h + d]), sum);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) delta[head] = sum;
}

}  // namespace

template <class T>
void CudaKernels<T>::attention(Queue& queue, AttentionShape shape, View<const T, 3> q, View<const T, 3> k,
                               View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                               View<W, 2> lse) {
  if (shape.num_sequences * shape.seq_len == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (flash_supports(shape) && all_aligned16(q.data(), k.data(), v.data(), out.data())) {
      return flash_attention(queue, shape, q, k, v, segment, out, lse,
                             scratch<int2>(queue, flash_ranges(shape)));
    }
  }
  general_attention<T>(queue, shape, q, k, v, segment, out, lse);
}

template <class T>
void CudaKernels<T>::attention_backward(Queue& queue, AttentionShape shape, View<const T, 3> dout,
                                        View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                                        View<const int32_t, 1> segment, View<const T, 3> out,
                                        View<const W, 2> lse, View<T, 3> dq, View<T, 3> dk, View<T, 3> dv) {
  const int64_t rows = shape.num_sequences * shape.seq_len * shape.num_heads;
  if (rows == 0) return;
  // Ranges of segments are two words each and stand before delta, on the scratch's alignment.
  const int64_t ranges = flash_ranges(shape);
  float* delta = scratch<float>(queue, rows + 2 * ranges) + 2 * ranges;
  delta_kernel<<<unsigned(ceil_div(rows, kHeads)), dim3(32, kHeads), 0, stream(queue)>>>(
      rows, int(shape.head_dim), raw(dout), raw(out), delta);
  launched();
  if constexpr (std::is_same_v<T, bf16>) {
    if (flash_supports(shape) &&
        all_aligned16(dout.data(), q.data(), k.data(), v.data(), dq.data(), dk.data(), dv.data())) {
      return flash_attention_backward(queue, shape, dout, q, k, v, segment, lse, delta, dq, dk, dv,
                                      delta - 2 * ranges);
    }
  }
  general_attention_backward<T>(queue, shape, dout, q, k, v, segment, lse, delta, dq, dk, dv);
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
