// Weight gradients of several layers in one launch (sm_90a), for GPUs and for emulated blocks.
#pragma once

#include "moe/cuda/grouped_hopper.h"
#include "tests/moe/cuda/side.h"

namespace cadre::moe {

// Matrices (out, in) of the layers of one launch.
struct WgradCase {
  std::vector<std::array<int64_t, 2>> layers;
  int64_t rows;
};

template <class X>
std::vector<Wgrad<X>> wgrad_layers(Side<X>& s, const WgradCase& c) {
  std::vector<Wgrad<X>> all;
  // Rows behind the last one, which must not enter a sum.
  const auto matrix = [&](int64_t width, uint64_t key) {
    auto values = numbers<device::bf16>(size_t((c.rows + 70) * width), key);
    std::fill(values.begin() + c.rows * width, values.end(), std::nan(""));
    return s.template put<X, 2>(values, {c.rows + 70, width}).rows(0, c.rows);
  };
  for (size_t i = 0; i < c.layers.size(); ++i) {
    const auto [out, in] = c.layers[i];
    all.push_back({matrix(out, 50 + i), matrix(in, 60 + i),
                   s.template put<X, 2>(numbers<device::bf16>(size_t(out * in), 70 + i), {out, in})});
  }
  return all;
}

// What all have after one launch that adds and, from other memory, one that writes.
template <class X, class Launch>
Results wgrad_results(Side<X>& s, const WgradCase& c, const Launch& launch) {
  auto added = wgrad_layers(s, c), written = added;
  for (auto& layer : written) layer.dw = s.template poison<X, 2>(layer.dw.shape());
  launch(added, true);
  launch(written, false);
  Results out;
  for (const auto& all : {added, written})
    for (const auto& layer : all) out.push_back(s.get(layer.dw));
  return out;
}

// Test: on_cpu and on_gpu, as BothSides has them.
template <class Test>
void expect_wgrads_match(Test& test, const std::vector<WgradCase>& cases) {
  using device::bf16;
  for (const WgradCase& c : cases) {
    const Results cpu = test.on_cpu([&](Side<double>& s) {
      return wgrad_results(s, c, [&](const std::vector<Wgrad<double>>& layers, bool accumulate) {
        const auto offsets = s.template put<int64_t, 1>({0, double(c.rows)}, {2});
        for (const auto& [b, a, dw] : layers)
          s.table.grouped_wgrad(s.queue, b, a, offsets, accumulate,
                                dw.template reshape<3>({1, dw.dim(0), dw.dim(1)}));
      });
    });
    const auto body = [&](Side<bf16>& s) {
      return wgrad_results(s, c, [&](const std::vector<Wgrad<bf16>>& layers, bool accumulate) {
        cuda::hopper_wgrads(cuda::stream_of(s.queue), layers, accumulate);
      });
    };
    const Results gpu = test.on_gpu(body);
    ASSERT_EQ(gpu.size(), cpu.size());
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], product_bound<bf16>(c.rows),
                   fmt::format("{} layers, {} rows, result {}", c.layers.size(), c.rows, i));
    expect_same(test.on_gpu(body), gpu);
  }
}

}  // namespace cadre::moe
