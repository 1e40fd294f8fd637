// Speed of attention on CUDA: what the table chooses, this project's own kernels (those of this GPU, and those for
// every GPU), and what cuDNN's deterministic backward pass costs beside the one that adds atomically. FLOPs are those
// of the visible scores.
//   bench_attention [LENGTHS [NAMES]]   LENGTHS: a file of document lengths in tokens, packed one after the other, or -;
//                                       NAMES: only what has this in its name
#include "tests/bench/bench.h"

#include <fstream>

#include "parallel/device/cuda/own_attention.h"

#if CADRE_CUDNN
#include "parallel/device/cuda/cudnn_attention.h"
#endif

namespace cadre::device {
namespace {

// Lengths of documents that fill `tokens` tokens, again from the first when they end.
using Lengths = std::vector<int64_t>;

// The segment of each token, and the sum of the squares of the segments' lengths.
std::pair<std::vector<int32_t>, double> pack(const AttentionShape& s, const Lengths& lengths) {
  std::vector<int32_t> segment;
  double squares = 0;
  int64_t left = 0, piece = 0;
  for (size_t next = 0; int64_t(segment.size()) < s.num_sequences * s.seq_len; --left) {
    const bool starts = int64_t(segment.size()) % s.seq_len == 0;
    if (left == 0) left = lengths[next++ % lengths.size()], piece = 0;
    if (starts) piece = 0;
    segment.push_back(starts ? 0 : segment.back() + (piece == 0));
    squares += double(2 * piece++ + 1);
  }
  return {segment, squares};
}

// No lengths: no documents.
void bench_attention(Bench& b, AttentionShape s, const std::string& name, const Lengths& lengths) {
  const int64_t tokens = s.num_sequences * s.seq_len;
  const auto q = b.random<3>({tokens, s.num_heads, s.head_dim}), out = b.random<3>(q.shape()),
             dout = b.random<3>(q.shape()), dq = b.random<3>(q.shape());
  const auto k = b.random<3>({tokens, s.num_kv_heads, s.head_dim}), v = b.random<3>(k.shape()),
             dk = b.random<3>(k.shape()), dv = b.random<3>(k.shape());
  const auto lse = b.zeros<float>(tokens * s.num_heads).reshape<2>({tokens, s.num_heads});
  View<int32_t, 1> segment;
  double squares = double(tokens * s.seq_len);
  if (!lengths.empty()) {
    std::vector<int32_t> host;
    std::tie(host, squares) = pack(s, lengths);
    segment = b.zeros<int32_t>(tokens);
    cuda::check(cudaMemcpy(segment.data(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
  }
  const double work = 2.0 * squares * double(s.num_heads) * double(s.head_dim);  // causal
  const std::string shape = fmt::format(" {}x{} heads {}/{} h {} docs {}", s.num_sequences, s.seq_len,
                                        s.num_heads, s.num_kv_heads, s.head_dim, name);
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
  b.flops("portable attention" + shape, work,
          [&] { cuda::portable_attention<bf16>(b.queue(), s, q, k, v, segment, out, lse); });
  b.flops("portable attention_backward" + shape, 2.5 * work, [&] {
    cuda::portable_attention_backward<bf16>(b.queue(), s, dout, q, k, v, segment, out, lse, dq, dk, dv);
  });
#if CADRE_CUDNN
  for (const bool deterministic : {true, false}) {
    if (!lengths.empty()) break;
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

int main(int argc, char** argv) {
  using namespace cadre::device;
  const Probe probe = cuda::accelerator_cuda().probe();
  fmt::print("{}\n", probe.report);
  if (probe.num_devices == 0) return 2;
  Bench b(argc > 2 ? argv[2] : "");
  b.ceilings();
  std::vector<std::pair<std::string, Lengths>> documents = {{"512", {512}}, {"-", {}}, {"100", {100}}};
  if (argc > 1 && std::string(argv[1]) != "-") {
    std::ifstream file(argv[1]);
    Lengths lengths;
    for (int64_t n = 0; file >> n;) lengths.push_back(n);
    if (lengths.empty()) {
      fmt::print(stderr, "{} holds no lengths\n", argv[1]);
      return 2;
    }
    documents.insert(documents.begin() + 1, {argv[1], lengths});
  }
  for (const AttentionShape& shape : {AttentionShape{8, 2048, 16, 16, 128},
                                      {16, 1024, 16, 16, 64},
                                      {8, 2048, 16, 16, 64},
                                      {8, 2048, 32, 4, 128},
                                      {32, 1024, 12, 12, 64}}) {
    for (const auto& [name, lengths] : documents) bench_attention(b, shape, name, lengths);
  }
}
