// Chooses the attention kernels for a shape, and makes what the backward passes of sm_80 need: the sum over each head
// of dout * out.
#include <algorithm>

#include "parallel/device/cuda/attention_general.h"
#if CADRE_CUDNN
#include "parallel/device/cuda/cudnn_attention.h"
#endif
#include "parallel/device/cuda/flash.h"
#include "parallel/device/cuda/flash_hopper.h"
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/own_attention.h"
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

// to (sequences, heads, length) from (sequences, length, heads), or back when inverse.
__global__ void __launch_bounds__(256) transpose_kernel(int64_t n, int heads, int length, bool inverse,
                                                        const float* from, float* __restrict__ to) {
  wait_for_kernel_before();
  const int64_t by_token = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (by_token >= n) return;
  const int64_t head = by_token % heads, token = by_token / heads % length,
                sequence = by_token / heads / length;
  const int64_t by_head = (sequence * heads + head) * length + token;
  to[inverse ? by_token : by_head] = from[inverse ? by_head : by_token];
}

void transpose_statistics(Queue& queue, const AttentionShape& s, bool inverse, const float* from, float* to) {
  const int64_t n = s.num_sequences * s.seq_len * s.num_heads;
  launch_behind(stream(queue), transpose_kernel, unsigned(ceil_div(n, 256)), 256, n, int(s.num_heads),
                int(s.seq_len), inverse, from, to);
}

// wgmma is of compute capability 9.0 alone, not of what came after.
bool has_hopper_products() {
  static const bool kHas = [] {
    int device = 0, major = 0, minor = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return major == 9 && minor == 0;
  }();
  return kHas;
}

#if CADRE_CUDNN
// Sequences this short take cuDNN longer than the kernels of this folder, and a backward pass with more workspace than
// this is left to them as well.
constexpr int64_t kMinLength = 128, kMaxWorkspace = int64_t(8) << 30;

// Null when cuDNN shall not run the shape. It is built for every shape anew, so that generation, whose lengths grow
// by one, is not for it.
CudnnAttention* cudnn_for(Queue& queue, const AttentionShape& s, View<const int32_t, 1> segment) {
  if (s.num_past > 0 || !segment.empty() || s.seq_len < kMinLength || s.head_dim % 8 != 0 || s.head_dim > 128)
    return nullptr;
  auto& attention = static_cast<CudaQueue&>(queue).state().attention;
  if (attention == nullptr) attention = std::make_shared<CudnnAttention>();
  return attention.get();
}

bool cudnn_forward(Queue& queue, const AttentionShape& s, View<const bf16, 3> q, View<const bf16, 3> k,
                   View<const bf16, 3> v, View<const int32_t, 1> segment, View<bf16, 3> out,
                   View<float, 2> lse) {
  CudnnAttention* cudnn = cudnn_for(queue, s, segment);
  const int64_t bytes = cudnn == nullptr ? -1 : cudnn->forward_bytes(s);
  if (bytes < 0 || bytes > kMaxWorkspace) return false;
  float* by_head = scratch<float>(queue, ceil_div(lse.size(), 64) * 64 + ceil_div(bytes, 4));
  cudnn->forward(stream(queue), s, q.data(), k.data(), v.data(), out.data(), by_head,
                 by_head + ceil_div(lse.size(), 64) * 64);
  transpose_statistics(queue, s, true, by_head, lse.data());
  return true;
}

bool own_backward_is_better(const AttentionShape& s) {
  return has_hopper_products() && hopper_backward_beats_cudnn(s);
}

bool cudnn_backward(Queue& queue, const AttentionShape& s, View<const bf16, 3> dout, View<const bf16, 3> q,
                    View<const bf16, 3> k, View<const bf16, 3> v, View<const int32_t, 1> segment,
                    View<const bf16, 3> out, View<const float, 2> lse, View<bf16, 3> dq, View<bf16, 3> dk,
                    View<bf16, 3> dv) {
  CudnnAttention* cudnn = own_backward_is_better(s) ? nullptr : cudnn_for(queue, s, segment);
  const int64_t bytes = cudnn == nullptr ? -1 : cudnn->backward_bytes(s);
  if (bytes < 0 || bytes > kMaxWorkspace) return false;
  float* by_head = scratch<float>(queue, ceil_div(lse.size(), 64) * 64 + ceil_div(bytes, 4));
  transpose_statistics(queue, s, false, lse.data(), by_head);
  cudnn->backward(stream(queue), s, dout.data(), q.data(), k.data(), v.data(), out.data(), by_head, dq.data(),
                  dk.data(), dv.data(), by_head + ceil_div(lse.size(), 64) * 64);
  return true;
}
#endif

struct BackwardScratch {
  float* delta;  // (T, N): the sum over each head of dout * out
  void* ranges;  // of flash.h
};

template <class T>
BackwardScratch make_delta(Queue& queue, const AttentionShape& s, View<const T, 3> dout,
                           View<const T, 3> out) {
  const int64_t rows = s.num_sequences * s.seq_len * s.num_heads;
  int2* ranges = scratch<int2>(queue, flash_ranges(s) + ceil_div(rows, 2));
  float* delta = reinterpret_cast<float*>(ranges + flash_ranges(s));
  delta_kernel<<<unsigned(ceil_div(rows, kHeads)), dim3(32, kHeads), 0, stream(queue)>>>(
      rows, int(s.head_dim), raw(dout), raw(out), delta);
  launched();
  return {delta, ranges};
}

}  // namespace

template <class T>
void portable_attention(Queue& queue, AttentionShape shape, View<const T, 3> q, View<const T, 3> k,
                        View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                        View<wide_t<T>, 2> lse) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (flash_supports(shape) && all_aligned16(q.data(), k.data(), v.data(), out.data())) {
      return flash_attention(queue, shape, q, k, v, segment, out, lse,
                             scratch<int2>(queue, flash_ranges(shape)));
    }
  }
  general_attention<T>(queue, shape, q, k, v, segment, out, lse);
}

template <class T>
void portable_attention_backward(Queue& queue, AttentionShape shape, View<const T, 3> dout,
                                 View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                                 View<const int32_t, 1> segment, View<const T, 3> out,
                                 View<const wide_t<T>, 2> lse, View<T, 3> dq, View<T, 3> dk, View<T, 3> dv) {
  const auto [delta, ranges] = make_delta(queue, shape, dout, out);
  if constexpr (std::is_same_v<T, bf16>) {
    if (flash_supports(shape) &&
        all_aligned16(dout.data(), q.data(), k.data(), v.data(), dq.data(), dk.data(), dv.data())) {
      return flash_attention_backward(queue, shape, dout, q, k, v, segment, lse, delta, dq, dk, dv, ranges);
    }
  }
  general_attention_backward<T>(queue, shape, dout, q, k, v, segment, lse, delta, dq, dk, dv);
}

template <class T>
void own_attention(Queue& queue, AttentionShape shape, View<const T, 3> q, View<const T, 3> k,
                   View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                   View<wide_t<T>, 2> lse) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (has_hopper_products() && hopper_attention_supports(shape) &&
        all_aligned16(q.data(), k.data(), v.data(), out.data())) {
      return hopper_attention(queue, shape, q, k, v, segment, out, lse,
                              scratch<std::byte>(queue, int64_t(hopper_attention_bytes(shape, false))));
    }
  }
  portable_attention<T>(queue, shape, q, k, v, segment, out, lse);
}

template <class T>
void own_attention_backward(Queue& queue, AttentionShape shape, View<const T, 3> dout, View<const T, 3> q,
                            View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> segment,
                            View<const T, 3> out, View<const wide_t<T>, 2> lse, View<T, 3> dq, View<T, 3> dk,
                            View<T, 3> dv) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (has_hopper_products() && hopper_attention_supports(shape) &&
        all_aligned16(dout.data(), q.data(), k.data(), v.data(), out.data(), dq.data(), dk.data(),
                      dv.data())) {
      return hopper_attention_backward(
          queue, shape, dout, q, k, v, segment, out, lse, dq, dk, dv,
          scratch<std::byte>(queue, int64_t(hopper_attention_bytes(shape, true))));
    }
  }
  portable_attention_backward<T>(queue, shape, dout, q, k, v, segment, out, lse, dq, dk, dv);
}

template <class T>
void CudaKernels<T>::attention(Queue& queue, AttentionShape shape, View<const T, 3> q, View<const T, 3> k,
                               View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                               View<W, 2> lse) {
  if (shape.num_sequences * shape.seq_len == 0) return;
#if CADRE_CUDNN
  if constexpr (std::is_same_v<T, bf16>) {
    if (all_aligned16(q.data(), k.data(), v.data(), out.data()) &&
        cudnn_forward(queue, shape, q, k, v, segment, out, lse)) {
      return;
    }
  }
#endif
  own_attention<T>(queue, shape, q, k, v, segment, out, lse);
}

template <class T>
void CudaKernels<T>::attention_backward(Queue& queue, AttentionShape shape, View<const T, 3> dout,
                                        View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                                        View<const int32_t, 1> segment, View<const T, 3> out,
                                        View<const W, 2> lse, View<T, 3> dq, View<T, 3> dk, View<T, 3> dv) {
  if (shape.num_sequences * shape.seq_len == 0) return;
#if CADRE_CUDNN
  if constexpr (std::is_same_v<T, bf16>) {
    if (all_aligned16(dout.data(), q.data(), k.data(), v.data(), out.data(), dq.data(), dk.data(),
                      dv.data()) &&
        cudnn_backward(queue, shape, dout, q, k, v, segment, out, lse, dq, dk, dv)) {
      return;
    }
  }
#endif
  own_attention_backward<T>(queue, shape, dout, q, k, v, segment, out, lse, dq, dk, dv);
}

int64_t attention_workspace(Queue& queue, const AttentionShape& s, bool backward) {
  const int64_t rows = s.num_sequences * s.seq_len * s.num_heads;
  int64_t most = 8 * (flash_ranges(s) + (backward ? ceil_div(rows, 2) : 0));
  if (has_hopper_products() && hopper_attention_supports(s))
    most = std::max(most, int64_t(hopper_attention_bytes(s, backward)));
#if CADRE_CUDNN
  if (CudnnAttention* cudnn = cudnn_for(queue, s, {})) {
    const bool both = backward && !own_backward_is_better(s);
    for (const int64_t bytes : {cudnn->forward_bytes(s), both ? cudnn->backward_bytes(s) : -1}) {
      if (bytes >= 0 && bytes <= kMaxWorkspace) most = std::max(most, 4 * rows + bytes);
    }
  }
#else
  (void)queue;
#endif
  return most;
}

#define CADRE_INSTANTIATE(T, NAME)                                                                 \
  template void NAME(Queue&, AttentionShape, View<const T, 3>, View<const T, 3>, View<const T, 3>, \
                     View<const int32_t, 1>, View<T, 3>, View<float, 2>);                          \
  template void NAME##_backward(Queue&, AttentionShape, View<const T, 3>, View<const T, 3>,        \
                                View<const T, 3>, View<const T, 3>, View<const int32_t, 1>,        \
                                View<const T, 3>, View<const float, 2>, View<T, 3>, View<T, 3>, View<T, 3>);
CADRE_INSTANTIATE(float, portable_attention)
CADRE_INSTANTIATE(bf16, portable_attention)
CADRE_INSTANTIATE(float, own_attention)
CADRE_INSTANTIATE(bf16, own_attention)
#undef CADRE_INSTANTIATE

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
