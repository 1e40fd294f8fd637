// Times calls on the GPU and prints them as shares of what a large copy and a large matrix product reach in the same
// run. Every figure is the median of many repeats over buffers larger than the caches.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/memory.h"

namespace cadre::device {

class Bench {
 public:
  explicit Bench(std::string filter) : filter_(std::move(filter)) {
    cuda::check(cudaEventCreate(&start_));
    cuda::check(cudaEventCreate(&stop_));
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
      cuda::check(cudaMemcpy(view.data() + at, chunk.data(), size_t(count) * 2, cudaMemcpyHostToDevice));
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
    cuda::check(cudaMemcpy(view.data(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
    return view;
  }
  void forget() { buffers_.clear(); }
  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // Median seconds of a call.
  double time(const std::function<void()>& call) {
    for (int i = 0; i < 20; ++i) call();  // also wakes the clocks from idling while the host made the numbers
    queue_.wait();
    std::vector<float> times;
    for (int i = 0; i < 21; ++i) {
      cuda::check(cudaEventRecord(start_, queue_.stream()));
      call();
      cuda::check(cudaEventRecord(stop_, queue_.stream()));
      cuda::check(cudaEventSynchronize(stop_));
      float ms = 0;
      cuda::check(cudaEventElapsedTime(&ms, start_, stop_));
      times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1e-3;
  }
  // The same of each of several that take turns, as clocks change with what ran before. A turn is several calls, as steps
  // have them: a card at its power limit is slower than a rested one.
  std::vector<double> in_turns(const std::vector<std::function<void()>>& calls) {
    constexpr int kTurns = 15, kCalls = 8;
    std::vector<std::vector<float>> times(calls.size());
    for (int turn = -3; turn < kTurns; ++turn) {
      for (size_t i = 0; i < calls.size(); ++i) {
        cuda::check(cudaEventRecord(start_, queue_.stream()));
        for (int n = 0; n < kCalls; ++n) calls[i]();
        cuda::check(cudaEventRecord(stop_, queue_.stream()));
        cuda::check(cudaEventSynchronize(stop_));
        float ms = 0;
        cuda::check(cudaEventElapsedTime(&ms, start_, stop_));
        if (turn >= 0) times[i].push_back(ms);
      }
    }
    std::vector<double> medians;
    for (std::vector<float>& of : times) {
      std::sort(of.begin(), of.end());
      medians.push_back(of[of.size() / 2] * 1e-3 / kCalls);
    }
    return medians;
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
      cuda::check(cudaMemcpyAsync(to.data(), from.data(), size_t(from.size()), cudaMemcpyDeviceToDevice,
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

}  // namespace cadre::device
