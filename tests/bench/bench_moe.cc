// Speed of the MoE layer and of the grouped products on one GPU, a line of JSON each: medians and spreads over
// runs that start with a cold L2 cache.
//   bench_moe layer TOKENS DIM WIDTH EXPERTS TOP_K [FOLDER]   forward, and forward and backward
//   bench_moe gemm EXPERTS ROWS IN OUT even|uneven            the product, its data and its weight gradient
// With FOLDER the layer reads x, dy (T, D), router (E, D), gate, up (E, H, D) and down (E, D, H) from files of
// bf16 values there, and writes y, dx and drouter beside them, so that a peer can compare; see peers/moe_layer.py.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "moe/cuda/entries.h"
#include "moe/moe_layer.h"
#include "parallel/base/rng.h"
#include "parallel/comm/transports.h"
#include "parallel/device/accelerator.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/memory.h"

namespace cadre::moe {
namespace {

using device::bf16;
using device::View;
using device::cuda::check;

struct Timing {
  double median = 0, low = 0, high = 0;  // milliseconds; low and high are the quartiles
};

class Clock {
 public:
  explicit Clock(device::cuda::CudaQueue& queue)
      : queue_(queue), flush_(device::DeviceKind::kCuda, 256 << 20) {
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  Timing time(const std::function<void()>& call) {
    for (int i = 0; i < 3; ++i) call();
    std::vector<float> times;
    for (int i = 0; i < kRepeats; ++i) {
      queue_.zero(flush_.data(), flush_.bytes());
      check(cudaEventRecord(start_, queue_.stream()));
      call();
      check(cudaEventRecord(stop_, queue_.stream()));
      check(cudaEventSynchronize(stop_));
      check(cudaEventElapsedTime(&times.emplace_back(), start_, stop_));
    }
    std::sort(times.begin(), times.end());
    return {times[kRepeats / 2], times[kRepeats / 4], times[kRepeats * 3 / 4]};
  }

 private:
  static constexpr int kRepeats = 21;
  device::cuda::CudaQueue& queue_;
  device::Buffer flush_;
  cudaEvent_t start_, stop_;
};

// Standard normals times `scale` in device memory, repeating after a million.
void fill(device::Queue& queue, View<bf16, 1> view, double scale, uint64_t key) {
  std::vector<bf16> chunk(1 << 20);
  const base::Philox rng(key);
  for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = bf16(scale * rng.normal(i));
  for (int64_t at = 0; at < view.size(); at += int64_t(chunk.size()))
    queue.upload(chunk.data(), view.data() + at,
                 size_t(std::min<int64_t>(view.size() - at, int64_t(chunk.size()))) * sizeof(bf16));
  queue.wait();
}

void read_file(device::Queue& queue, const std::string& path, View<bf16, 1> view) {
  std::vector<bf16> host(size_t(view.size()));
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(host.data()), std::streamsize(host.size() * sizeof(bf16))))
    throw std::runtime_error(fmt::format("{} has fewer than {} values", path, host.size()));
  queue.upload(host.data(), view.data(), host.size() * sizeof(bf16));
  queue.wait();
}

void write_file(device::Queue& queue, const std::string& path, View<bf16, 1> view) {
  std::vector<bf16> host(size_t(view.size()));
  queue.download(view.data(), host.data(), host.size() * sizeof(bf16));
  queue.wait();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(host.data()), std::streamsize(host.size() * sizeof(bf16)));
}

template <int N>
View<bf16, 1> flat(const View<bf16, N>& view) {
  return {view.data(), {view.size()}};
}

struct Shape {
  int64_t tokens, dim, width, experts, top_k;
};

// A Mixtral-like layer (softmax, renormalised gates, no balance loss) with its memory.
class Layer {
 public:
  Layer(comm::World& world, device::cuda::CudaQueue& queue, const Shape& shape)
      : shape_(shape),
        queue_(queue),
        mesh_(world, {}),
        layer_(read_moe(base::parse_run_text(
                            fmt::format("moe: {{num_experts: {}, top_k: {}, width: {}, balance: none}}\n",
                                        shape.experts, shape.top_k, shape.width),
                            "bench.yaml", {})
                            .section("moe")),
               {.queue = &queue,
                .kernels = &device::device_kernels<bf16>(device::DeviceKind::kCuda),
                .mesh = &mesh_,
                .dim = shape.dim,
                .max_tokens = shape.tokens,
                .seq_len = shape.tokens}) {
    layer_.declare(table_, "m", 0);
    layout_.emplace(table_, 1, 0);
    store_.emplace(*layout_, device::DeviceKind::kCuda);
    layer_.bind(*store_);
    layer_.reserve(saved_, scratch_);
    reserve_rows();
    saved_.allocate();
    scratch_.allocate();
    scratch_.release(0);
    layer_.reserve(saved_, scratch_);
    reserve_rows();
    queue_.zero(segment_.data(), size_t(segment_.size()) * sizeof(int32_t));
    layer_.begin_step();
  }
  void load(const std::string& folder) {
    const std::pair<const char*, View<bf16, 1>> inputs[] = {{"x", flat(x_)},
                                                            {"dy", flat(dy_)},
                                                            {"router", flat(value<2>("m.router.weight"))},
                                                            {"gate", flat(value<3>("m.experts.w_gate"))},
                                                            {"up", flat(value<3>("m.experts.w_up"))},
                                                            {"down", flat(value<3>("m.experts.w_down"))}};
    uint64_t key = 0;
    for (const auto& [name, view] : inputs) {
      if (folder.empty()) {
        ++key;
        fill(queue_, view, key <= 2 ? 1 : 0.02, key);
      } else {
        read_file(queue_, fmt::format("{}/{}.bf16", folder, name), view);
      }
    }
  }
  void save(const std::string& folder) {
    write_file(queue_, folder + "/y.bf16", flat(y_));
    write_file(queue_, folder + "/dx.bf16", flat(dx_));
    write_file(queue_, folder + "/drouter.bf16", flat(store_->grad<2>(table_.find("m.router.weight"))));
  }
  void forward() { layer_.forward(x_, segment_, shape_.tokens, y_, true); }
  void both() {
    store_->start_grads(queue_);
    forward();
    layer_.backward(x_, segment_, dy_, {shape_.tokens, shape_.tokens, 1}, dx_, nullptr);
  }

 private:
  void reserve_rows() {
    for (auto* view : {&x_, &y_, &dy_, &dx_}) *view = saved_.take<bf16, 2>({shape_.tokens, shape_.dim});
    segment_ = saved_.take<int32_t, 1>({shape_.tokens});
  }
  template <int N>
  View<bf16, N> value(const char* name) {
    return store_->value<N>(table_.find(name));
  }

  Shape shape_;
  device::cuda::CudaQueue& queue_;
  comm::Mesh mesh_;
  MoeLayer<bf16> layer_;
  device::ParamTable table_;
  std::optional<device::ParamLayout> layout_;
  std::optional<device::ParamStore<bf16>> store_;
  device::Arena saved_{"saved", device::DeviceKind::kCuda}, scratch_{"scratch", device::DeviceKind::kCuda};
  View<bf16, 2> x_, y_, dy_, dx_;
  View<int32_t, 1> segment_;
};

void bench_layer(const Shape& s, const std::string& folder) {
  comm::run_threads(1, [&](comm::World& world) {
    device::cuda::CudaQueue queue(0);
    Layer layer(world, queue, s);
    layer.load(folder);
    layer.both();
    queue.wait();
    if (!folder.empty()) layer.save(folder);
    Clock clock(queue);
    const Timing forward = clock.time([&] { layer.forward(); }), both = clock.time([&] { layer.both(); });
    const double flops = 6.0 * double(s.tokens) * double(s.top_k) * double(s.dim) * double(s.width);
    fmt::print(
        "{{\"what\": \"moe layer\", \"T\": {}, \"d\": {}, \"n\": {}, \"E\": {}, \"k\": {}, \"fwd_ms\": "
        "{:.3f}, "
        "\"fwdbwd_ms\": {:.3f}, \"fwdbwd_quartiles_ms\": [{:.3f}, {:.3f}], \"fwd_TF\": {:.0f}, \"total_TF\": "
        "{:.0f}}}\n",
        s.tokens, s.dim, s.width, s.experts, s.top_k, forward.median, both.median, both.low, both.high,
        flops / forward.median * 1e-9, 3 * flops / both.median * 1e-9);
  });
}

// Group sizes that are all the same, or fall as 1 / sqrt(rank).
std::vector<int64_t> offsets_of(int64_t experts, int64_t rows, bool even) {
  std::vector<double> share(size_t(experts), 1.0);
  double sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += share[size_t(e)] = even ? 1 : 1 / std::sqrt(double(e + 1));
  std::vector<int64_t> offsets(1, 0);
  for (const double s : share) offsets.push_back(offsets.back() + int64_t(s / sum * double(rows)));
  for (size_t e = 1; e < offsets.size(); ++e)
    offsets[e] += rows - offsets.back();  // the first takes the rest
  return offsets;
}

void bench_gemm(int64_t experts, int64_t rows, int64_t in, int64_t out, const std::string& sizes) {
  device::cuda::CudaQueue queue(0);
  const MoeKernels<bf16>& kernels = cuda_moe_kernels<bf16>();
  std::vector<device::Buffer> memory;
  const auto take = [&](int64_t n, double scale) {
    memory.emplace_back(device::DeviceKind::kCuda, size_t(n) * sizeof(bf16));
    const View<bf16, 1> view(reinterpret_cast<bf16*>(memory.back().data()), {n});
    fill(queue, view, scale, memory.size());
    return view;
  };
  const auto a = take(rows * in, 1).reshape<2>({rows, in}), b = take(rows * out, 1).reshape<2>({rows, out}),
             y = take(rows * out, 0).reshape<2>({rows, out}), da = take(rows * in, 0).reshape<2>({rows, in});
  const auto w = take(experts * in * out, 0.02).reshape<3>({experts, out, in}),
             dw = take(experts * in * out, 0).reshape<3>({experts, out, in});
  const auto host = offsets_of(experts, rows, sizes == "even");
  memory.emplace_back(device::DeviceKind::kCuda, host.size() * sizeof(int64_t));
  queue.upload(host.data(), memory.back().data(), host.size() * sizeof(int64_t));
  const View<const int64_t, 1> offsets(reinterpret_cast<int64_t*>(memory.back().data()), {experts + 1});
  Clock clock(queue);
  const double flops = 2.0 * double(rows) * double(in) * double(out);
  const auto rate = [&](const std::function<void()>& call) { return flops / clock.time(call).median * 1e-9; };
  const double forward = rate([&] { kernels.grouped_gemm(queue, a, w, offsets, y); });
  const double dgrad = rate([&] { kernels.grouped_dgrad(queue, b, w, offsets, false, da); });
  const double wgrad = rate([&] { kernels.grouped_wgrad(queue, b, a, offsets, false, dw); });
  fmt::print(
      "{{\"what\": \"grouped gemm\", \"E\": {}, \"M\": {}, \"K\": {}, \"N\": {}, \"sizes\": \"{}\", "
      "\"fwd_TF\": "
      "{:.0f}, \"dgrad_TF\": {:.0f}, \"wgrad_TF\": {:.0f}}}\n",
      experts, rows, in, out, sizes, forward, dgrad, wgrad);
}

}  // namespace
}  // namespace cadre::moe

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto number = [&](size_t i) { return std::stoll(args.at(i)); };
  if (args.size() >= 6 && args[0] == "layer") {
    cadre::moe::bench_layer({number(1), number(2), number(3), number(4), number(5)},
                            args.size() > 6 ? args[6] : "");
  } else if (args.size() == 6 && args[0] == "gemm") {
    cadre::moe::bench_gemm(number(1), number(2), number(3), number(4), args[5]);
  } else {
    fmt::print(stderr,
               "usage: bench_moe layer TOKENS DIM WIDTH EXPERTS TOP_K [FOLDER] | gemm EXPERTS ROWS IN OUT "
               "even|uneven\n");
    return 2;
  }
}
