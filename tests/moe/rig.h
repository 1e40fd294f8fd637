// What the tests of moe share: random numbers, a router or a layer with its memory, and central differences.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "moe/moe_layer.h"
#include "parallel/base/rng.h"

namespace cadre::moe {

// Standard normals, the same for every T.
template <class T>
std::vector<T> normals(size_t n, uint64_t key) {
  const base::Philox random(base::mix(key));
  std::vector<T> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = T(random.normal(i));
  return values;
}

template <class T, size_t N>
device::View<T, int(N)> view(std::vector<T>& values, const int64_t (&shape)[N]) {
  return {values.data(), std::to_array(shape)};
}
template <class T, size_t N>
device::View<const T, int(N)> view(const std::vector<T>& values, const int64_t (&shape)[N]) {
  return {values.data(), std::to_array(shape)};
}

// "{num_experts: 4, ...}" as the moe section of a run file.
inline MoeConfig moe_config(const std::string& text) {
  return read_moe(base::parse_run_text("moe: " + text + "\n", "test.yaml", {}).section("moe"));
}

// Parameters of one rank with their memory. Router matrices are made 25 times as large as at the start of a
// run, so that experts differ clearly and no small step changes a choice.
template <class T>
struct Params {
  void build(int ep, int ep_rank, uint64_t seed) {
    layout.emplace(table, ep, ep_rank);
    store.emplace(*layout, device::DeviceKind::kCpu);
    store->initialize(seed);
    for (size_t row = 0; row < table.rows().size(); ++row) {
      if (table.row(int(row)).name.find(".router.") == std::string::npos) continue;
      const auto& place = layout->at(int(row));
      for (int64_t i = 0; i < place.count; ++i) store->values(place.group)[place.offset + i] *= T(25);
    }
  }
  device::ParamTable table;
  std::optional<device::ParamLayout> layout;
  std::optional<device::ParamStore<T>> store;
};

template <class T>
struct LayerSizes {
  int64_t dim = 6, max_tokens = 16, seq_len = 4;
  int threads = 1;
};

inline int64_t real_tokens(const std::vector<int32_t>& segment) {
  return std::count_if(segment.begin(), segment.end(), [](int32_t s) { return s >= 0; });
}

// A layer on one rank of `world`, ready to run.
template <class T>
class LayerRig {
 public:
  LayerRig(comm::World& world, int ep, const std::string& config, LayerSizes<T> sizes = {})
      : mesh(world, {.ep = ep}),
        queue(sizes.threads),
        layer(moe_config(config), {.queue = &queue,
                                   .kernels = &device::cpu_kernels<T>(),
                                   .mesh = &mesh,
                                   .dim = sizes.dim,
                                   .max_tokens = sizes.max_tokens,
                                   .seq_len = sizes.seq_len,
                                   .init_std = 0.5,
                                   .out_init_std = 0.4}),
        dim(sizes.dim) {
    layer.declare(params.table, "layers.0.moe", 0);
    params.build(ep, mesh.expert().rank(), 7);
    layer.bind(*params.store);
    layer.reserve(saved, scratch);
    saved.allocate();
    scratch.allocate();
    scratch.release(0);
    layer.reserve(saved, scratch);
    layer.begin_step();
  }

  std::vector<T> forward(const std::vector<T>& x, const std::vector<int32_t>& segment, bool training = true) {
    const int64_t tokens = int64_t(segment.size());
    std::vector<T> y(x.size(), T(99));
    layer.forward(view(x, {tokens, dim}), view(segment, {tokens}), real_tokens(segment),
                  view(y, {tokens, dim}), training);
    return y;
  }
  std::vector<T> backward(
      const std::vector<T>& x, const std::vector<int32_t>& segment, const std::vector<T>& dy,
      const BatchCounts& counts, device::Tap<T>* tap = nullptr, absl::FunctionRef<void()> beside = [] {}) {
    const int64_t tokens = int64_t(segment.size());
    std::vector<T> dx(x.size(), T(99));
    layer.backward(view(x, {tokens, dim}), view(segment, {tokens}), view(dy, {tokens, dim}), counts,
                   view(dx, {tokens, dim}), tap, beside);
    return dx;
  }

  comm::Mesh mesh;
  device::CpuQueue queue;
  MoeLayer<T> layer;
  Params<T> params;
  device::Arena saved{"saved", device::DeviceKind::kCpu}, scratch{"scratch", device::DeviceKind::kCpu};
  int64_t dim;
};

inline BatchCounts counts_of(const std::vector<int32_t>& segment, int64_t seq_len) {
  BatchCounts counts;
  for (size_t begin = 0; begin < segment.size(); begin += seq_len) {
    int64_t real = 0;
    for (size_t t = begin; t < std::min(segment.size(), begin + seq_len); ++t) real += segment[t] >= 0;
    counts.real_tokens += real;
    counts.sequences += real > 0;
  }
  counts.trained_tokens = counts.real_tokens;
  return counts;
}

// Checks gradient[i] against (f(x + h) - f(x - h)) / 2h for every element of `values`.
inline void expect_gradient(device::View<double, 1> values, const std::vector<double>& gradient,
                            const std::function<double()>& f, const std::string& what,
                            double tolerance = 1e-7) {
  constexpr double kStep = 1e-5;
  ASSERT_EQ(size_t(values.size()), gradient.size()) << what;
  for (int64_t i = 0; i < values.size(); ++i) {
    const double kept = values[i];
    values[i] = kept + kStep;
    const double above = f();
    values[i] = kept - kStep;
    const double below = f();
    values[i] = kept;
    const double slope = (above - below) / (2 * kStep);
    ASSERT_NEAR(gradient[i], slope, tolerance * (1 + std::abs(slope))) << what << ", element " << i;
  }
}

inline void expect_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance,
                        const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_NEAR(a[i], b[i], tolerance * (1 + std::abs(b[i]))) << what << " " << i;
}

}  // namespace cadre::moe
