#include "parallel/device/cuda/cudnn_attention.h"

#include <cudnn_frontend.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace cadre::device::cuda {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Id : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

void check_cudnn(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuDNN: ") + cudnnGetErrorString(status) + " in " + what);
}

// A (T, heads, h) view as cuDNN's (sequences, heads, length, h).
struct Layout {
  std::vector<int64_t> dim, stride;
};
Layout rows(const AttentionShape& s, int64_t heads) {
  const int64_t h = s.head_dim;
  return {{s.num_sequences, heads, s.seq_len, h}, {s.seq_len * heads * h, h, heads * h, 1}};
}
Layout statistics(const AttentionShape& s) {
  return {{s.num_sequences, s.num_heads, s.seq_len, 1}, {s.num_heads * s.seq_len, s.seq_len, 1, 1}};
}

Tensor input(fe::graph::Graph& graph, Id id, const Layout& layout, fe::DataType_t type) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_uid(id)
                          .set_dim(layout.dim)
                          .set_stride(layout.stride)
                          .set_data_type(type));
}
void output(const Tensor& tensor, Id id, const Layout& layout, fe::DataType_t type) {
  tensor->set_output(true).set_uid(id).set_dim(layout.dim).set_stride(layout.stride).set_data_type(type);
}

constexpr auto kBf16 = fe::DataType_t::BFLOAT16, kFloat = fe::DataType_t::FLOAT;

void build_forward(fe::graph::Graph& graph, const AttentionShape& s) {
  const Layout q = rows(s, s.num_heads), k = rows(s, s.num_kv_heads);
  const auto options = fe::graph::SDPA_attributes()
                           .set_name("attention")
                           .set_generate_stats(true)
                           .set_causal_mask(true)
                           .set_attn_scale(float(1 / std::sqrt(double(s.head_dim))));
  const auto [out, lse] =
      graph.sdpa(input(graph, kQ, q, kBf16), input(graph, kK, k, kBf16), input(graph, kV, k, kBf16), options);
  output(out, kOut, q, kBf16);
  output(lse, kLse, statistics(s), kFloat);
}

void build_backward(fe::graph::Graph& graph, const AttentionShape& s, bool deterministic) {
  const Layout q = rows(s, s.num_heads), k = rows(s, s.num_kv_heads);
  const auto options = fe::graph::SDPA_backward_attributes()
                           .set_name("attention_backward")
                           .set_causal_mask(true)
                           .set_attn_scale(float(1 / std::sqrt(double(s.head_dim))))
                           .set_deterministic_algorithm(deterministic);
  const auto [dq, dk, dv] =
      graph.sdpa_backward(input(graph, kQ, q, kBf16), input(graph, kK, k, kBf16), input(graph, kV, k, kBf16),
                          input(graph, kOut, q, kBf16), input(graph, kDout, q, kBf16),
                          input(graph, kLse, statistics(s), kFloat), options);
  output(dq, kDq, q, kBf16);
  output(dk, kDk, k, kBf16);
  output(dv, kDv, k, kBf16);
}

}  // namespace

struct CudnnAttention::Handle {
  cudnnHandle_t handle = nullptr;
  Handle() { check_cudnn(cudnnCreate(&handle), "create"); }
  ~Handle() { cudnnDestroy(handle); }
};

struct CudnnAttention::Plan {
  fe::graph::Graph graph;
  int64_t bytes = -1;

  void run(cudnnHandle_t handle, cudaStream_t stream, std::unordered_map<int64_t, void*> pointers,
           void* workspace) {
    check_cudnn(cudnnSetStream(handle, stream), "stream");
    auto status = graph.execute(handle, pointers, workspace);
    if (status.is_bad()) throw std::runtime_error("cuDNN attention: " + status.get_message());
  }
};

CudnnAttention::CudnnAttention(bool deterministic)
    : deterministic_(deterministic), handle_(std::make_unique<Handle>()) {}
CudnnAttention::~CudnnAttention() = default;

CudnnAttention::Plan& CudnnAttention::plan(bool backward, const AttentionShape& s) {
  std::unique_ptr<Plan>& entry =
      plans_[{backward, s.num_sequences, s.seq_len, s.num_heads, s.num_kv_heads, s.head_dim}];
  if (entry != nullptr) return *entry;
  entry = std::make_unique<Plan>();
  fe::graph::Graph& graph = entry->graph;
  graph.set_io_data_type(kBf16).set_intermediate_data_type(kFloat).set_compute_data_type(kFloat);
  if (backward) {
    build_backward(graph, s, deterministic_);
  } else {
    build_forward(graph, s);
  }
  // One plan: trying several by time would let two runs differ in bits.
  if (graph.build(handle_->handle, {fe::HeurMode_t::A}).is_bad()) return *entry;
  if (graph.get_workspace_size(entry->bytes).is_bad()) entry->bytes = -1;
  return *entry;
}

int64_t CudnnAttention::forward_bytes(const AttentionShape& s) {
  return plan(false, s).bytes;
}
int64_t CudnnAttention::backward_bytes(const AttentionShape& s) {
  return plan(true, s).bytes;
}

void CudnnAttention::forward(cudaStream_t stream, const AttentionShape& s, const void* q, const void* k,
                             const void* v, void* out, float* lse, void* workspace) {
  const auto mutable_ = [](const void* p) { return const_cast<void*>(p); };
  plan(false, s).run(handle_->handle, stream,
                     {{kQ, mutable_(q)}, {kK, mutable_(k)}, {kV, mutable_(v)}, {kOut, out}, {kLse, lse}},
                     workspace);
}

void CudnnAttention::backward(cudaStream_t stream, const AttentionShape& s, const void* dout, const void* q,
                              const void* k, const void* v, const void* out, const float* lse, void* dq,
                              void* dk, void* dv, void* workspace) {
  const auto mutable_ = [](const void* p) { return const_cast<void*>(p); };
  plan(true, s).run(handle_->handle, stream,
                    {{kQ, mutable_(q)},
                     {kK, mutable_(k)},
                     {kV, mutable_(v)},
                     {kOut, mutable_(out)},
                     {kDout, mutable_(dout)},
                     {kLse, const_cast<float*>(lse)},
                     {kDq, dq},
                     {kDk, dk},
                     {kDv, dv}},
                    workspace);
}

}  // namespace cadre::device::cuda
