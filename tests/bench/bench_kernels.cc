// Speed of CUDA's dense kernels, but attention, at the shapes of a training step.
//   bench_kernels [FILTER]   only entries whose name holds FILTER
#include "tests/bench/bench.h"

#include "optim/cuda/kernels_cuda.h"

namespace cadre::device {
namespace {

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
  b.bytes("swiglu_backward" + shape, 6 * pass, [&] { k.swiglu_backward(b.queue(), z, x, y, x, y, z); });
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
          [&] { b.kernels().rms_norm_backward(b.queue(), y, x, w, rstd, true, z, dw); });
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

void bench_optim(Bench& b, int64_t n) {
  const auto& kernels = optim::cuda_optim_kernels<bf16>();
  const auto grad = b.random<1>({n}), value = b.random<1>({n});
  const auto master = b.zeros<float>(n), m = b.zeros<float>(n), v = b.zeros<float>(n),
             sum = b.zeros<float>(n);
  const auto m_bf16 = b.random<1>({n}), v_bf16 = b.random<1>({n});
  optim::AdamWStep step{.lr = 1e-3};
  const optim::AdamWTensors<bf16> tensors{grad, {}, value, master, m, v, {}, {}},
      summed{grad, sum, value, master, m, v, {}, {}}, narrow{grad, {}, value, master, {}, {}, m_bf16, v_bf16};
  const std::string shape = fmt::format(" {} parameters", n);
  b.bytes("adamw, bf16 gradient" + shape, 28 * double(n), [&] { kernels.adamw(b.queue(), step, tensors); });
  b.bytes("adamw, fp32 gradient" + shape, 30 * double(n), [&] { kernels.adamw(b.queue(), step, summed); });
  b.bytes("adamw, bf16 moments" + shape, 20 * double(n), [&] { kernels.adamw(b.queue(), step, narrow); });
  step.stochastic = true;
  b.bytes("adamw, random rounding" + shape, 28 * double(n), [&] { kernels.adamw(b.queue(), step, tensors); });
  const auto squares = b.zeros<double>(1);
  b.bytes("add_squares" + shape, 2 * double(n), [&] { kernels.add_squares(b.queue(), grad, squares); });
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
  bench_optim(b, int64_t(1) << 27);
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
