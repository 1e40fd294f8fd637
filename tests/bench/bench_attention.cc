// Speed of attention on CUDA: what the table chooses, this project's own kernels, and what cuDNN's deterministic
// backward pass costs beside the one that adds atomically. FLOPs are those of the visible half of the scores.
#include "tests/bench/bench.h"

#include "parallel/device/cuda/own_attention.h"

#if CADRE_CUDNN
#include "parallel/device/cuda/cudnn_attention.h"
#endif

namespace cadre::device {
namespace {

// documents: of one length each, 0 for none.
void bench_attention(Bench& b, AttentionShape s, int64_t document) {
  const int64_t tokens = s.num_sequences * s.seq_len;
  const auto q = b.random<3>({tokens, s.num_heads, s.head_dim}), out = b.random<3>(q.shape()),
             dout = b.random<3>(q.shape()), dq = b.random<3>(q.shape());
  const auto k = b.random<3>({tokens, s.num_kv_heads, s.head_dim}), v = b.random<3>(k.shape()),
             dk = b.random<3>(k.shape()), dv = b.random<3>(k.shape());
  const auto lse = b.zeros<float>(tokens * s.num_heads).reshape<2>({tokens, s.num_heads});
  View<int32_t, 1> segment;
  if (document > 0) {
    std::vector<int32_t> host;
    for (int64_t t = 0; t < tokens; ++t) host.push_back(int32_t(t % s.seq_len / document));
    segment = b.zeros<int32_t>(tokens);
    cuda::check(cudaMemcpy(segment.data(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
  }
  const double length = double(document > 0 ? document : s.seq_len);
  const double work = 2.0 * length * double(tokens) * double(s.num_heads) * double(s.head_dim);  // causal
  const std::string shape = fmt::format(" {}x{} heads {}/{} h {} docs {}", s.num_sequences, s.seq_len,
                                        s.num_heads, s.num_kv_heads, s.head_dim, document);
  b.flops("attention" + shape, work,
          [&] { b.kernels().attention(b.queue(), s, q, k, v, segment, out, lse); });
  b.flops("attention_backward" + shape, 2.5 * work, [&] {
    b.kernels().attention_backward(b.queue(), s, dout, q, k, v, segment, out, lse, dq, dk, dv);
  });
  b.flops("own attention" + shape, work,
          [&] { cuda::own_attention<bf16>(b.queue(), s, q, k, v, segment, out, lse); });
  b.flops("own attention_backward" + shape, 2.5 * work, [&] {
    cuda::own_attention_backward<bf16>(b.queue(), s, dout, q, k, v, segment, out, lse, dq, dk, dv);
  });
#if CADRE_CUDNN
  for (const bool deterministic : {true, false}) {
    if (document > 0) break;
    cuda::CudnnAttention cudnn(deterministic);
    const int64_t bytes = cudnn.backward_bytes(s);
    if (bytes < 0) continue;
    const View<float, 1> workspace = b.zeros<float>(bytes / 4 + 64);
    const std::string name = fmt::format("cuDNN backward, {}, {:.2f} GiB",
                                         deterministic ? "repeatable" : "atomic", double(bytes) / 0x1p30);
    b.flops(name + shape, 2.5 * work, [&] {
      cudnn.backward(b.queue().stream(), s, dout.data(), q.data(), k.data(), v.data(), out.data(), lse.data(),
                     dq.data(), dk.data(), dv.data(), workspace.data());
    });
  }
#endif
  b.forget();
}

}  // namespace
}  // namespace cadre::device

int main() {
  using namespace cadre::device;
  const Probe probe = cuda::accelerator_cuda().probe();
  fmt::print("{}\n", probe.report);
  if (probe.num_devices == 0) return 2;
  Bench b("");
  b.ceilings();
  for (const int64_t document : {0, 512}) {
    bench_attention(b, {8, 2048, 16, 16, 128}, document);
    bench_attention(b, {8, 2048, 32, 4, 128}, document);
    bench_attention(b, {32, 1024, 12, 12, 64}, document);
  }
}
