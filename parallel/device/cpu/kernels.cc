// The CPU's table of dense kernels.
#include <cblas.h>

#include "parallel/device/cpu/kernels_cpu.h"

extern "C" void openblas_set_num_threads(int num_threads);

namespace cadre::device {

template <class T>
const DeviceKernels<T>& cpu_kernels() {
  using K = CpuKernels<T>;
  static const DeviceKernels<T> table = [] {
    openblas_set_num_threads(1);
    return DeviceKernels<T>{
        .gemm = K::gemm,
        .gemm_onto = K::gemm_onto,
        .gemm_batch = K::gemm_batch,
        .rms_norm = K::rms_norm,
        .rms_norm_backward = K::rms_norm_backward,
        .rope = K::rope,
        .attention = K::attention,
        .attention_backward = K::attention_backward,
        .store_kv = K::store_kv,
        .place_heads = nullptr,
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
  }();
  return table;
}
template const DeviceKernels<float>& cpu_kernels<float>();
template const DeviceKernels<double>& cpu_kernels<double>();

}  // namespace cadre::device
