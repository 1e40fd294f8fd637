// Weight gradients of half a layer: one launch of OneExpert::wgrads' kernel against the library's products, by turns, at the
// shapes of the benchmarks' models. `together`: what a backward pass does there (OneExpert::wgrads takes the kernel).
//   bench_wgrads [FILTER]   only lines whose name holds FILTER
#include "moe/cuda/grouped_hopper.h"
#include "moe/cuda/launch.h"
#include "tests/bench/bench.h"

namespace cadre::device {
namespace {

struct Half {
  std::string name;
  int64_t tokens;
  std::array<int64_t, 2> apart;   // (out, in) of the layer with an input of its own
  int64_t count;                  // of layers that share an input
  std::array<int64_t, 2> shared;  // and their (out, in)
};

void run_half(Bench& b, const Half& h) {
  if (!b.wanted(h.name)) return;
  const int64_t out = h.shared[0], in = h.shared[1];
  const auto x = b.random<2>({h.tokens, in}), own_x = b.random<2>({h.tokens, h.apart[1]}),
             own_dy = b.random<2>({h.tokens, h.apart[0]}), own_dw = b.random<2>(h.apart);
  const auto dy = b.random<3>({h.count, h.tokens, out}), dw = b.random<3>({h.count, out, in});
  std::vector<moe::Wgrad<bf16>> layers = {{own_dy, own_x, own_dw}};
  for (int64_t i = 0; i < h.count; ++i) layers.push_back({dy[i], x, dw[i]});
  const auto library = [&](double beta) {
    const GemmFlags flags{.transpose_a = true, .beta = beta};
    b.kernels().gemm(b.queue(), own_dy, own_x, own_dw, flags);
    b.kernels().gemm_batch(b.queue(), dy, x.reshape<3>({1, h.tokens, in}), dw, flags);
  };
  const auto kernel = [&](bool add) { moe::cuda::hopper_wgrads(b.queue().stream(), layers, add); };
  const auto seconds =
      b.in_turns({[&] { library(0); }, [&] { kernel(false); }, [&] { library(1); }, [&] { kernel(true); }});
  const double flops = 2.0 * double(h.tokens) * double(h.apart[0] * h.apart[1] + h.count * out * in);
  fmt::print("{:<24} {}", h.name,
             moe::cuda::fill_waves_together(layers, moe::cuda::multiprocessors()) ? "together" : "apart   ");
  const char* const names[] = {"library", "kernel", "library adds", "kernel adds"};
  for (size_t i = 0; i < seconds.size(); ++i)
    fmt::print("  {} {:.1f} us {:.0f} TFLOP/s", names[i], seconds[i] * 1e6, flops / seconds[i] * 1e-12);
  fmt::print("\n");
  b.forget();
}

void run(const std::string& filter) {
  Bench b(filter);
  fmt::print("{}\n", cuda::accelerator_cuda().probe().report);
  const Half halves[] = {{"dense355m attention", 16384, {1024, 1024}, 3, {1024, 1024}},
                         {"dense355m ffn", 16384, {1024, 2816}, 2, {2816, 1024}},
                         {"dense124m attention", 32768, {768, 768}, 3, {768, 768}},
                         {"dense124m ffn", 32768, {768, 2048}, 2, {2048, 768}},
                         {"olmoe4 attention", 16384, {2048, 2048}, 3, {2048, 2048}},
                         {"mixtral-mini attention", 16384, {1024, 1024}, 3, {1024, 1024}}};
  for (const Half& half : halves) run_half(b, half);
}

}  // namespace
}  // namespace cadre::device

int main(int argc, char** argv) {
  const cadre::device::Probe probe = cadre::device::cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0 || cadre::moe::cuda::compute_capability() != 90) {
    fmt::print("{}; this needs sm_90\n", probe.report);
    return 2;
  }
  cadre::device::run(argc > 1 ? argv[1] : "");
}
