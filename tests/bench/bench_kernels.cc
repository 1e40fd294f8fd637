// Speed of CUDA's dense kernels at the shapes of a training step: time, GB/s or TFLOP/s, and the share of what a
// large copy and a large matrix product reach in the same run. Every figure is the median of many repeats over
// buffers larger than the caches.
//   bench_kernels [FILTER]   only entries whose name holds FILTER
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/memory.h"

namespace cadre::device {
namespace {

using cuda::check;

class Bench {
 public:
  explicit Bench(std::string filter) : filter_(std::move(filter)) {
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  cuda::CudaQueue& queue() { return queue_; }
  const DeviceKernels<bf16>& kernels() const { return cuda_kernels<bf16>(); }

  // Random bf16 numbers: a matrix product is faster on zeros than on what training has.
  template <int N>
  View<bf16, N> random(std::array<int64_t, N> shape) {
    View<bf16, N> view(nullptr, shape);
    view = View<bf16, N>(memory<bf16>(view.size()), shape);
    std::vector<bf16> chunk(1 << 20);
    const base::Philox rng(1);
    for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = bf16(rng.normal(i));
    for (int64_t at = 0; at < view.size(); at += int64_t(chunk.size())) {
      const int64_t count = std::min<int64_t>(view.size() - at, int64_t(chunk.size()));
      check(cudaMemcpy(view.data() + at, chunk.data(), size_t(count) * 2, cudaMemcpyHostToDevice));
    }
    return view;
  }
  template <class U>
  View<U, 1> zeros(int64_t n) {
    return View<U, 1>(memory<U>(n), {n});
  }
  View<int32_t, 1> indices(int64_t n, int64_t limit) {
    std::vector<int32_t> host;
    const base::Philox rng(2);
    for (int64_t i = 0; i < n; ++i) host.push_back(int32_t(rng.words(uint64_t(i))[0] % uint64_t(limit)));
    const View<int32_t, 1> view = zeros<int32_t>(n);
    check(cudaMemcpy(view.data(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
    return view;
  }
  void forget() { buffers_.clear(); }
  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // Median seconds of a call.
  double time(const std::function<void()>& call) {
    for (int i = 0; i < 3; ++i) call();
    queue_.wait();
    std::vector<float> times;
    for (int i = 0; i < 21; ++i) {
      check(cudaEventRecord(start_, queue_.stream()));
      call();
      check(cudaEventRecord(stop_, queue_.stream()));
      check(cudaEventSynchronize(stop_));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, start_, stop_));
      times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1e-3;
  }
  void bytes(const std::string& name, double bytes, const std::function<void()>& call) {
    if (!wanted(name)) return;
    const double seconds = time(call), rate = bytes / seconds * 1e-9;
    if (copy_rate_ == 0) copy_rate_ = rate;
    fmt::print("{:<44} {:>9.1f} us {:>8.0f} GB/s  {:>5.1f}% of copy\n", name, seconds * 1e6, rate,
               100 * rate / copy_rate_);
  }
  void flops(const std::string& name, double flops, const std::function<void()>& call) {
    if (!wanted(name)) return;
    const double seconds = time(call), rate = flops / seconds * 1e-12;
    if (gemm_rate_ == 0) gemm_rate_ = rate;
    fmt::print("{:<44} {:>9.1f} us {:>8.1f} TFLOP/s {:>4.1f}% of 8192^3\n", name, seconds * 1e6, rate,
               100 * rate / gemm_rate_);
  }
  // The two ceilings, whatever the filter.
  void ceilings() {
    const std::string filter = std::exchange(filter_, "");
    const View<uint8_t, 1> from = zeros<uint8_t>(int64_t(4) << 30), to = zeros<uint8_t>(int64_t(4) << 30);
    bytes("copy, 4 GiB", 2 * double(from.size()), [&] {
      check(cudaMemcpyAsync(to.data(), from.data(), size_t(from.size()), cudaMemcpyDeviceToDevice,
                            queue_.stream()));
    });
    forget();
    const int64_t n = 8192;
    const auto a = random<2>({n, n}), b = random<2>({n, n}), c = random<2>({n, n});
    flops("gemm, 8192^3", 2.0 * n * n * n, [&] { kernels().gemm(queue_, a, b, c, {}); });
    forget();
    filter_ = filter;
  }

 private:
  template <class U>
  U* memory(int64_t n) {
    buffers_.emplace_back(DeviceKind::kCuda, size_t(n) * sizeof(U));
    return reinterpret_cast<U*>(buffers_.back().data());
  }
  std::string filter_;
  cuda::CudaQueue queue_{0};
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
  std::vector<Buffer> buffers_;
  double copy_rate_ = 0, gemm_rate_ = 0;
};

template <int N>
View<bf16, 1> flat(View<bf16, N> x) {
  return x.template reshape<1>({x.size()});
}

void bench_gemm(Bench& b, const char* model, int64_t tokens, int64_t in, int64_t out) {
  const auto x = b.random<2>({tokens, in}), w = b.random<2>({out, in}), y = b.random<2>({tokens, out});
  const double work = 2.0 * double(tokens) * double(in) * double(out);
  const std::string shape = fmt::format(" {} {}x{}x{}", model, tokens, in, out);
  b.flops("gemm forward" + shape, work, [&] { b.kernels().gemm(b.queue(), x, w, y, {.transpose_b = true}); });
  b.flops("gemm data grad" + shape, work, [&] { b.kernels().gemm(b.queue(), y, w, x, {}); });
  b.flops("gemm weight grad" + shape, work,
          [&] { b.kernels().gemm(b.queue(), y, x, w, {.transpose_a = true, .beta = 1}); });
  b.forget();
}

void bench_elementwise(Bench& b, int64_t rows, int64_t width) {
  const auto x = b.random<2>({rows, width}), y = b.random<2>({rows, width}), z = b.random<2>({rows, width});
  const double pass = 2.0 * double(x.size());
  const std::string shape = fmt::format(" {}x{}", rows, width);
  const auto& k = b.kernels();
  b.bytes("swiglu" + shape, 3 * pass, [&] { k.swiglu(b.queue(), x, y, z); });
  b.bytes("swiglu_backward" + shape, 5 * pass, [&] { k.swiglu_backward(b.queue(), z, x, y, x, y); });
  b.bytes("add" + shape, 3 * pass, [&] { k.add(b.queue(), flat(x), flat(y)); });
  b.bytes("copy" + shape, 2 * pass, [&] { k.copy(b.queue(), flat(x), flat(y)); });
  b.bytes("fill" + shape, pass, [&] { k.fill(b.queue(), flat(x), 1); });
  b.forget();
}

void bench_norm(Bench& b, int64_t rows, int64_t width) {
  const auto x = b.random<2>({rows, width}), y = b.random<2>({rows, width}), z = b.random<2>({rows, width});
  const auto w = b.random<1>({width}), dw = b.random<1>({width});
  const auto rstd = b.zeros<float>(rows);
  const double pass = 2.0 * double(x.size());
  const std::string shape = fmt::format(" {}x{}", rows, width);
  b.bytes("rms_norm" + shape, 2 * pass, [&] { b.kernels().rms_norm(b.queue(), x, w, 1e-5, y, rstd); });
  b.bytes("rms_norm_backward" + shape, 4 * pass,
          [&] { b.kernels().rms_norm_backward(b.queue(), y, x, w, rstd, z, dw); });
  b.forget();
}

void bench_tokens(Bench& b, int64_t tokens, int64_t width, int64_t vocab) {
  const auto x = b.random<3>({tokens, width / 128, 128}), table = b.random<3>({vocab, width / 128, 128});
  const auto token = b.indices(tokens, vocab), position = b.indices(tokens, 2048);
  const auto angles = b.zeros<float>(2048 * 128).reshape<2>({2048, 128});
  const double pass = 2.0 * double(x.size());
  const std::string shape = fmt::format(" {}x{}", tokens, width);
  const auto& k = b.kernels();
  b.bytes("rope" + shape, 2 * pass, [&] { k.rope(b.queue(), x, position, angles, false); });
  const auto rows = x.reshape<2>({tokens, width}), all = table.reshape<2>({vocab, width});
  b.bytes("embed" + shape, 2 * pass, [&] { k.embed(b.queue(), all, token, rows); });
  b.bytes("embed_backward" + shape, 3 * pass, [&] { k.embed_backward(b.queue(), rows, token, all); });
  b.forget();
}

void bench_log_prob(Bench& b, int64_t tokens, int64_t vocab) {
  const auto logits = b.random<2>({tokens, vocab});
  const auto target = b.indices(tokens, vocab);
  const auto logp = b.zeros<float>(tokens), lse = b.zeros<float>(tokens), dlogp = b.zeros<float>(tokens);
  const double pass = 2.0 * double(logits.size());
  const std::string shape = fmt::format(" {}x{}", tokens, vocab);
  b.bytes("log_prob" + shape, pass, [&] { b.kernels().log_prob(b.queue(), logits, target, logp, lse); });
  b.bytes("log_prob_backward" + shape, 2 * pass,
          [&] { b.kernels().log_prob_backward(b.queue(), logits, target, lse, dlogp); });
  b.forget();
}

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
    check(cudaMemcpy(segment.data(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
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
  b.forget();
}

void run(const std::string& filter) {
  Bench b(filter);
  fmt::print("{}\n", cuda::accelerator_cuda().probe().report);
  b.ceilings();
  bench_gemm(b, "olmoe4", 16384, 2048, 2048);
  bench_gemm(b, "olmoe4 router", 16384, 2048, 64);
  bench_gemm(b, "olmoe4 head", 16384, 2048, 50304);
  bench_gemm(b, "124M", 32768, 768, 2048);
  bench_gemm(b, "355M", 16384, 1024, 2816);
  bench_elementwise(b, 131072, 1024);
  bench_norm(b, 16384, 2048);
  bench_norm(b, 65536, 768);
  bench_norm(b, 262144, 128);
  bench_tokens(b, 32768, 2048, 50304);
  bench_log_prob(b, 8192, 50304);
  for (const int64_t document : {0, 512}) {
    bench_attention(b, {8, 2048, 16, 16, 128}, document);
    bench_attention(b, {8, 2048, 32, 4, 128}, document);
    bench_attention(b, {32, 1024, 12, 12, 64}, document);
  }
}

}  // namespace
}  // namespace cadre::device

int main(int argc, char** argv) {
  const cadre::device::Probe probe = cadre::device::cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) {
    fmt::print("{}\n", probe.report);
    return 2;
  }
  cadre::device::run(argc > 1 ? argv[1] : "");
}
