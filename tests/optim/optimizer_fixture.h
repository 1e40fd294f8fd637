// A small table of parameters with gradients, for tests of optimizers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "optim/optimizer.h"
#include "parallel/base/rng.h"

namespace cadre::optim::testing {

using device::Group;
using device::View;

// Two matrices (one of them per-expert), a vector without decay, and an element-wise table.
inline device::ParamTable small_table() {
  device::ParamTable table;
  auto add = [&](const char* name, std::vector<int64_t> shape, Group group, bool decay, device::Update update,
                 int bucket) {
    device::ParamRow row;
    row.name = name;
    row.shape = std::move(shape);
    row.group = group;
    row.decay = decay;
    row.update = update;
    row.bucket = bucket;
    table.add(row);
  };
  add("embed", {11, 4}, Group::kDense, true, device::Update::kElement, 0);
  add("norm", {7}, Group::kDense, false, device::Update::kElement, 1);
  add("tall", {12, 5}, Group::kDense, true, device::Update::kMatrix, 1);
  add("wide", {5, 6}, Group::kDense, true, device::Update::kMatrix, 1);  // like the one before: may be joined
  add("experts", {4, 3, 8}, Group::kExpert, true, device::Update::kMatrix, 1);
  return table;
}

// A store with reproducible gradients and an optimizer over all of it or over one rank's slices.
template <class T>
struct Bench {
  device::CpuQueue queue{1};
  device::ParamTable table = small_table();
  device::ParamLayout layout{table, 1, 0};
  device::ParamStore<T> store{layout, device::DeviceKind::kCpu};
  std::vector<comm::ShardPlan> plans;

  explicit Bench(int ranks = 1) {
    for (Group group : {Group::kDense, Group::kExpert}) plans.emplace_back(layout, group, ranks, 1);
    store.initialize(3);
  }
  void fill_grads(uint64_t seed) {
    for (int g = 0; g < device::kNumGroups; ++g) {
      const View<T, 1> grads = store.grads(Group(g));
      for (int64_t i = 0; i < grads.size(); ++i)
        grads[i] = T(base::Philox(seed).normal(uint64_t(i), uint64_t(g)));
    }
  }
  OptimizerContext<T> context(int rank) {
    OptimizerContext<T> c;
    c.queue = &queue;
    c.kernels = &device::cpu_kernels<T>();
    c.optim_kernels = &cpu_optim_kernels<T>();
    c.store = &store;
    for (int g = 0; g < device::kNumGroups; ++g) {
      c.pieces[g] = plans[size_t(g)].pieces(rank);
      c.state_size[g] = plans[size_t(g)].state_size(rank);
    }
    return c;
  }
  std::vector<T> values() const {
    std::vector<T> all;
    for (int g = 0; g < device::kNumGroups; ++g) {
      const View<T, 1> v = store.values(Group(g));
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }
};

inline base::Section section(const std::string& text) {
  return base::parse_run_text(text, "test.yaml", {});
}

inline std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const auto& entry : optimizer_table<float>()) names.push_back(entry.name);
  return names;
}
}  // namespace cadre::optim::testing
