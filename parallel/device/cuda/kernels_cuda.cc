// CUDA's table of dense kernels.
#include "parallel/device/cuda/kernels_cuda.h"

namespace cadre::device {

template <class T>
const DeviceKernels<T>& cuda_kernels() {
  using K = cuda::CudaKernels<T>;
  static const DeviceKernels<T> table = {
      .gemm = K::gemm,
      .gemm_onto = K::gemm_onto,
      .gemm_batch = K::gemm_batch,
      .rms_norm = K::rms_norm,
      .rms_norm_backward = K::rms_norm_backward,
      .rope = K::rope,
      .attention = K::attention,
      .attention_backward = K::attention_backward,
      .store_kv = K::store_kv,
      .place_heads = K::place_heads,
      .follow_drawn = K::follow_drawn,
      .paged_attention = K::paged_attention,
      .swiglu = K::swiglu,
      .swiglu_backward = K::swiglu_backward,
      .embed = K::embed,
      .embed_backward = K::embed_backward,
      .log_prob = K::log_prob,
      .log_prob_backward = K::log_prob_backward,
      .log_prob_and_grad = K::log_prob_and_grad,
      .sample = K::sample,
      .add = K::add,
      .copy = K::copy,
      .fill = K::fill,
      .accumulate = K::accumulate,
      .widen = K::widen,
  };
  return table;
}
template const DeviceKernels<float>& cuda_kernels<float>();
template const DeviceKernels<bf16>& cuda_kernels<bf16>();

}  // namespace cadre::device
