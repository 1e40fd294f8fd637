// Attention through cuDNN's graph API: causal, without documents and past keys, bf16. Only in builds that found the
// headers of cudnn-frontend (CADRE_CUDNN), whose templates take minutes to compile: cudnn_attention.cc alone has
// them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <tuple>

#include "parallel/device/kernels.h"

namespace cadre::device::cuda {

class CudnnAttention {
 public:
  // The deterministic backward pass keeps S x S values a head in its workspace.
  explicit CudnnAttention(bool deterministic = true);
  ~CudnnAttention();

  // Bytes of workspace, or -1 when cuDNN has no kernel for the shape. The first call for a shape takes long.
  int64_t forward_bytes(const AttentionShape&);
  int64_t backward_bytes(const AttentionShape&);
  // lse: (sequences, heads, length), unlike that of DeviceKernels.
  void forward(cudaStream_t, const AttentionShape&, const void* q, const void* k, const void* v, void* out,
               float* lse, void* workspace);
  void backward(cudaStream_t, const AttentionShape&, const void* dout, const void* q, const void* k,
                const void* v, const void* out, const float* lse, void* dq, void* dk, void* dv,
                void* workspace);

 private:
  struct Plan;
  struct Handle;
  using Key = std::tuple<bool, int64_t, int64_t, int64_t, int64_t, int64_t>;
  Plan& plan(bool backward, const AttentionShape&);
  bool deterministic_;
  std::unique_ptr<Handle> handle_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace cadre::device::cuda
