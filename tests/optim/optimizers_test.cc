// Optimizers and clipping against naive formulas, closed forms, and themselves on other shards.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "optim/clipping.h"
#include "optim/optimizer.h"
#include "optim/optimizers/muon.h"
#include "parallel/base/rng.h"
#include "parallel/comm/mesh.h"

namespace cadre::optim {
namespace {

using device::Group;
using device::View;

// Two matrices (one of them per-expert), a vector without decay, and an element-wise table.
device::ParamTable small_table() {
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

base::Section section(const std::string& text) {
  return base::parse_run_text(text, "test.yaml", {});
}

TEST(AdamW, FollowsTheFormulaOfAlgorithm2) {
  Bench<double> bench;
  auto optimizer = make_optimizer<double>(
      section("{name: adamw, lr: 0.01, betas: [0.8, 0.9], eps: 1.0e-6, weight_decay: 0.3}"),
      bench.context(0));
  std::vector<double> p = bench.values(), m(p.size()), v(p.size());
  const device::Placement norm = bench.layout.at(bench.table.find("norm"));
  for (int step = 1; step <= 4; ++step) {
    bench.fill_grads(uint64_t(step));
    const double lr = 0.01 * step, scale = 0.5;
    for (size_t i = 0; i < p.size(); ++i) {
      const size_t dense = size_t(bench.store.values(Group::kDense).size());
      const double g = scale * (i < dense ? bench.store.grads(Group::kDense)[int64_t(i)]
                                          : bench.store.grads(Group::kExpert)[int64_t(i - dense)]);
      const bool no_decay = int64_t(i) >= norm.offset && int64_t(i) < norm.offset + norm.count;
      m[i] = 0.8 * m[i] + 0.2 * g;
      v[i] = 0.9 * v[i] + 0.1 * g * g;
      const double mhat = m[i] / (1 - std::pow(0.8, step)), vhat = v[i] / (1 - std::pow(0.9, step));
      p[i] -= lr * (mhat / (std::sqrt(vhat) + 1e-6) + (no_decay ? 0 : 0.3) * p[i]);
    }
    optimizer->step(lr, scale);
    const std::vector<double> got = bench.values();
    for (size_t i = 0; i < p.size(); ++i)
      ASSERT_NEAR(got[i], p[i], 1e-12) << "step " << step << " element " << i;
  }
  EXPECT_EQ(optimizer->updates(), 4);
}

TEST(AdamW, PreconditionIsTheDiagonalOfTheLastUpdate) {
  Bench<double> bench;
  auto optimizer = make_optimizer<double>(section("{name: adamw, lr: 0.01, betas: [0, 0.5], eps: 1.0e-3}"),
                                          bench.context(0));
  const comm::Piece piece = bench.context(0).pieces[0].front();
  std::vector<double> grad(size_t(piece.count), 2.0), out(grad.size());
  const View<const double, 1> g(grad.data(), {piece.count});
  const View<double, 1> o(out.data(), {piece.count});
  optimizer->precondition(Group::kDense, piece, g, o);
  EXPECT_EQ(out, grad) << "ones before the first update";
  bench.fill_grads(9);
  optimizer->step(0.01, 1.0);
  optimizer->precondition(Group::kDense, piece, g, o);
  const View<double, 1> grads = bench.store.grads(Group::kDense).rows(piece.group_offset, piece.count);
  for (int64_t i = 0; i < piece.count; ++i) {
    EXPECT_NEAR(out[size_t(i)], 2 / (std::abs(grads[i]) + 1e-3), 1e-9);  // vhat = g^2 after one update
  }
}

class EveryOptimizer : public ::testing::TestWithParam<std::string> {};

// The slices of any number of ranks, updated one by one, give the bits of the whole.
TEST_P(EveryOptimizer, ShardedEqualsWholeBitwise) {
  const std::string text = fmt::format("{{name: {}, lr: 0.01}}", GetParam());
  Bench<float> whole;
  auto reference = make_optimizer<float>(section(text), whole.context(0));
  for (int step = 1; step <= 3; ++step) {
    whole.fill_grads(uint64_t(step));
    reference->step(0.02, 0.7);
  }
  for (int ranks : {2, 3, 5}) {
    Bench<float> bench(ranks);
    std::vector<std::unique_ptr<Optimizer<float>>> optimizers;
    for (int rank = 0; rank < ranks; ++rank) {
      optimizers.push_back(make_optimizer<float>(section(text), bench.context(rank)));
    }
    for (int step = 1; step <= 3; ++step) {
      bench.fill_grads(uint64_t(step));
      for (auto& optimizer : optimizers) optimizer->step(0.02, 0.7);
    }
    EXPECT_EQ(bench.values(), whole.values()) << ranks << " ranks";
  }
}

// One rank of a run on a model of four buckets, each rank with gradients of its own.
class Replica {
 public:
  Replica(comm::World& world, int ep, const std::string& optimizer)
      : mesh_(world, {.ep = ep}),
        layout_(table_, ep, mesh_.expert().rank()),
        store_(layout_, device::DeviceKind::kCpu),
        dense_(layout_, Group::kDense, mesh_.data().size(), 1),
        expert_(layout_, Group::kExpert, mesh_.replicas().size(), 1),
        reducer_(mesh_, store_, dense_, expert_) {
    store_.initialize(3);
    const comm::ShardPlan* plans[] = {&dense_, &expert_};
    const comm::Communicator* groups[] = {&mesh_.data(), &mesh_.replicas()};
    for (int g = 0; g < device::kNumGroups; ++g) {
      context_.pieces[g] = plans[g]->pieces(groups[g]->rank());
      context_.state_size[g] = plans[g]->state_size(groups[g]->rank());
      context_.shared[g] = groups[g]->size() > 1;
    }
    context_.queue = &queue_;
    context_.kernels = &device::cpu_kernels<float>();
    context_.optim_kernels = &optim_kernels<float>(device::DeviceKind::kCpu);
    context_.store = &store_;
    optimizer_ = make_optimizer<float>(section(optimizer), context_);
  }

  // by_bucket: sums are waited for where the norm reads them, and values leave when they are updated. Else everything
  // waits for everything. Returns the norm and all values.
  std::vector<double> step(uint64_t seed, bool by_bucket) {
    const int buckets = table_.num_buckets();
    double squares = 0;
    for (int g = 0; g < device::kNumGroups; ++g) {
      const View<float, 1> grads = store_.grads(Group(g));
      for (int64_t i = 0; i < grads.size(); ++i)
        grads[i] = float(base::Philox(base::mix(seed, uint64_t(mesh_.data().rank()))).normal(uint64_t(i), g));
    }
    for (int b = buckets - 1; b >= 0; --b) reducer_.add(b);
    if (!by_bucket) reducer_.finish(queue_);
    start_norm(context_, squares,
               by_bucket ? BucketHook([&](int b) { reducer_.need_sums(b, queue_); }) : nullptr);
    reducer_.finish(queue_);
    const GradNorm norm = finish_norm(squares, mesh_.data(), 1.0, 0);
    optimizer_->step(0.01, norm.scale,
                     by_bucket ? BucketHook([&](int b) { reducer_.gather_values(b); }) : nullptr);
    for (int b = 0; !by_bucket && b < buckets; ++b) reducer_.gather_values(b);
    for (int b = 0; b < buckets; ++b) reducer_.need_values(b, queue_);
    std::vector<double> result = {norm.norm};
    for (int g = 0; g < device::kNumGroups; ++g)
      result.insert(result.end(), store_.values(Group(g)).begin(), store_.values(Group(g)).end());
    return result;
  }

 private:
  static device::ParamTable model() {
    device::ParamTable table = small_table();
    for (int bucket : {2, 3}) {
      device::ParamRow row;
      row.bucket = bucket;
      row.update = device::Update::kMatrix;
      row.name = fmt::format("{}.w", bucket);
      row.shape = {3, 5};  // one rank of many owns it whole, and the next bucket's rows follow it
      table.add(row);
      row.name = fmt::format("{}.experts", bucket);
      row.shape = {4, 5, 3};
      row.group = Group::kExpert;
      table.add(row);
    }
    return table;
  }
  device::CpuQueue queue_{1};
  device::ParamTable table_ = model();
  comm::Mesh mesh_;
  device::ParamLayout layout_;
  device::ParamStore<float> store_;
  comm::ShardPlan dense_, expert_;
  comm::GradReducer<float> reducer_;
  OptimizerContext<float> context_;
  std::unique_ptr<Optimizer<float>> optimizer_;
};

TEST_P(EveryOptimizer, BucketByBucketEqualsAllAtOnceBitwise) {
  const std::string text = fmt::format("{{name: {}, lr: 0.01}}", GetParam());
  for (int ranks : {1, 2, 4, 8}) {
    for (int ep : {1, 2, 4}) {
      if (ranks % ep != 0) continue;
      comm::run_threads(ranks, [&](comm::World& world) {
        Replica whole(world, ep, text), parts(world, ep, text);
        for (uint64_t step = 1; step <= 3; ++step) {
          const std::vector<double> expected = whole.step(step, false);
          EXPECT_EQ(parts.step(step, true), expected) << ranks << " ranks, ep " << ep << ", step " << step;
        }
      });
    }
  }
}

// Dense values are on their way while experts that nobody shares are updated.
TEST(OwnedSlices, WhatOthersWaitForIsUpdatedFirst) {
  const device::ParamTable table = small_table();
  const device::ParamLayout layout(table, 1, 0);
  OwnedSlices slices;
  for (int g = 0; g < device::kNumGroups; ++g)
    slices.pieces[g] = comm::ShardPlan(layout, Group(g), 1, 1).pieces(0);
  slices.shared[int(Group::kDense)] = true;
  std::vector<std::string> order;
  const auto visit = [&](Group, const comm::Piece& piece) { order.push_back(table.row(piece.row).name); };
  const auto bucket = [&](int b) { order.push_back(std::to_string(b)); };
  for_each_piece(slices, slices.pieces, table, visit, bucket);
  EXPECT_EQ(order, (std::vector<std::string>{"embed", "0", "norm", "tall", "wide", "1", "experts"}));
  order.clear();
  for_each_piece_backward(slices, slices.pieces, table, visit, bucket);
  EXPECT_EQ(order, (std::vector<std::string>{"experts", "1", "norm", "tall", "wide", "0", "embed"}));
}

// In bf16 a moment is off by up to 2^-8 of itself, either way and without bias.
TEST(AdamW, MomentsInBf16FollowThoseInFp32AndDoNotDependOnShards) {
  Bench<float> exact, whole;
  const char* narrow = "{name: adamw, lr: 0.01, moments: bf16}";
  auto one = make_optimizer<float>(section("{name: adamw, lr: 0.01}"), exact.context(0));
  auto two = make_optimizer<float>(section(narrow), whole.context(0));
  EXPECT_EQ(2 * two->bytes(), one->bytes());
  Bench<float> shared(3);
  std::vector<std::unique_ptr<Optimizer<float>>> shards;
  for (int rank = 0; rank < 3; ++rank)
    shards.push_back(make_optimizer<float>(section(narrow), shared.context(rank)));
  for (int step = 1; step <= 20; ++step) {
    for (Bench<float>* bench : {&exact, &whole, &shared}) bench->fill_grads(uint64_t(step));
    one->step(0.01, 1);
    two->step(0.01, 1);
    for (auto& shard : shards) shard->step(0.01, 1);
  }
  EXPECT_EQ(shared.values(), whole.values());
  double drift = 0, moved = 0;
  const auto a = exact.values(), b = whole.values();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], 20 * 0.01 * 0x1p-5) << i;  // 20 updates, each off by a few roundings of itself
    drift += double(b[i] - a[i]) / double(a.size());
    moved += std::abs(double(b[i] - a[i])) / double(a.size());
  }
  EXPECT_GT(moved, 0);
  EXPECT_LT(std::abs(drift), 0.3 * moved) << "rounding at random has no preferred side";
  for (const char* name : {"m", "v"}) {
    EXPECT_TRUE(two->state(name, Group::kDense).empty());
    EXPECT_FALSE(two->narrow_state(name, Group::kDense).empty());
  }
}

TEST(AdamW, APlannedOptimizerKnowsItsBytesAndHoldsNothing) {
  for (const char* text : {"{name: adamw, lr: 0.01}", "{name: muon, lr: 0.01}"}) {
    Bench<float> bench;
    auto context = bench.context(0);
    const size_t bytes = make_optimizer<float>(section(text), context)->bytes();
    context.planned = true;
    const auto planned = make_optimizer<float>(section(text), context);
    EXPECT_EQ(planned->bytes(), bytes);
    EXPECT_TRUE(planned->state("m", Group::kDense).empty());
  }
}

TEST_P(EveryOptimizer, StateRestoredContinuesBitwise) {
  const std::string text = fmt::format("{{name: {}, lr: 0.01}}", GetParam());
  Bench<float> a, b;
  auto one = make_optimizer<float>(section(text), a.context(0));
  a.fill_grads(1);
  one->step(0.02, 1);
  auto two = make_optimizer<float>(section(text), b.context(0));
  for (int g = 0; g < device::kNumGroups; ++g) {
    std::copy(a.store.values(Group(g)).begin(), a.store.values(Group(g)).end(),
              b.store.values(Group(g)).begin());
    for (const std::string& name : one->state_names()) {
      const auto from = one->state(name, Group(g));
      std::copy(from.begin(), from.end(), two->state(name, Group(g)).begin());
    }
  }
  two->set_updates(one->updates());
  a.fill_grads(2);
  b.fill_grads(2);
  one->step(0.02, 1);
  two->step(0.02, 1);
  EXPECT_EQ(a.values(), b.values());
}

TEST_P(EveryOptimizer, MovesAgainstTheGradient) {
  Bench<float> bench;
  auto optimizer = make_optimizer<float>(
      section(fmt::format("{{name: {}, lr: 0.01, weight_decay: 0}}", GetParam())), bench.context(0));
  bench.fill_grads(5);
  const std::vector<float> before = bench.values();
  optimizer->step(0.01, 1);
  const std::vector<float> after = bench.values();
  double dot = 0;
  for (int64_t i = 0; i < bench.store.grads(Group::kDense).size(); ++i) {
    dot += double(after[size_t(i)] - before[size_t(i)]) * bench.store.grads(Group::kDense)[i];
  }
  EXPECT_LT(dot, 0);
}

TEST_P(EveryOptimizer, RejectsAnUnknownKey) {
  Bench<float> bench;
  EXPECT_THROW(make_optimizer<float>(section(fmt::format("{{name: {}, lr: 0.01, momentun: 1}}", GetParam())),
                                     bench.context(0)),
               Error);
}

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const auto& entry : optimizer_table<float>()) names.push_back(entry.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Table, EveryOptimizer, ::testing::ValuesIn(optimizer_names()),
                         [](const auto& info) { return info.param; });

// For X = U S V^T the iteration must give U S' V^T with S' near 1: X^T X has then eigenvalues near 1. Checked
// without a decomposition: every unit vector's image must have a length within the quintic's band.
TEST(Muon, NewtonSchulzBringsSingularValuesNearOne) {
  device::CpuQueue queue(1);
  for (const auto& [rows_of_x, cols_of_x] : {std::pair<int64_t, int64_t>{6, 17}, {17, 6}, {9, 9}}) {
    const int64_t rows = rows_of_x, cols = cols_of_x;
    const int64_t side = std::min(rows, cols);
    std::vector<double> x(size_t(rows * cols)), next(x.size()), gram(size_t(side * side)), gram2(gram.size());
    // Diagonal with singular values from 1 down to 0.1 of the largest, hidden by two random reflections.
    for (int64_t i = 0; i < side; ++i) x[size_t(i * cols + i)] = 1.0 - 0.9 * double(i) / double(side);
    auto reflect = [&](int64_t n, bool left, uint64_t seed) {
      std::vector<double> u(size_t(n), 0.0);
      double norm = 0;
      for (int64_t i = 0; i < n; ++i)
        norm += std::pow(u[size_t(i)] = base::Philox(seed).normal(uint64_t(i)), 2);
      for (int64_t o = 0; o < (left ? cols : rows); ++o) {
        auto at = [&](int64_t i) -> double& {
          return left ? x[size_t(i * cols + o)] : x[size_t(o * cols + i)];
        };
        double dot = 0;
        for (int64_t i = 0; i < n; ++i) dot += u[size_t(i)] * at(i);
        for (int64_t i = 0; i < n; ++i) at(i) -= 2 * dot / norm * u[size_t(i)];
      }
    };
    reflect(rows, true, 1);
    reflect(cols, false, 2);
    newton_schulz<double>(queue, device::cpu_kernels<double>(), cpu_optim_kernels<double>(), 5,
                          View<double, 2>(x.data(), {rows, cols}), View<double, 2>(gram.data(), {side, side}),
                          View<double, 2>(gram2.data(), {side, side}),
                          View<double, 2>(next.data(), {rows, cols}));
    // Undo the reflections (each is its own inverse): what is left must be diagonal, with entries near 1.
    reflect(cols, false, 2);
    reflect(rows, true, 1);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const double value = x[size_t(i * cols + j)];
        if (i == j) {
          EXPECT_GT(value, 0.6);
          EXPECT_LT(value, 1.3);
        } else {
          EXPECT_NEAR(value, 0, 1e-9);
        }
      }
    }
  }
}

GradNorm global_norm(const OptimizerContext<float>& context, comm::Communicator& data, double max_norm,
                     double loss) {
  double squares = 0;
  start_norm(context, squares);
  context.queue->wait();
  return finish_norm(squares, data, max_norm, loss);
}

TEST(Clipping, EveryElementCountsOnceAndScaleBoundsTheNorm) {
  Bench<float> reference;
  reference.fill_grads(4);
  double squares = 0;
  for (int g = 0; g < device::kNumGroups; ++g) {
    for (float x : reference.store.grads(Group(g))) squares += double(x) * x;
  }
  for (int ranks : {1, 2, 3}) {
    comm::run_threads(ranks, [&](comm::World& world) {
      comm::Mesh mesh(world, comm::MeshConfig{});
      Bench<float> bench(ranks);
      bench.fill_grads(4);
      const GradNorm got = global_norm(bench.context(world.rank()), mesh.data(), 2.0, 0.5);
      EXPECT_NEAR(got.norm, std::sqrt(squares), 1e-9);
      EXPECT_NEAR(got.loss, 0.5 * ranks, 1e-12);
      EXPECT_NEAR(got.scale, 2.0 / std::sqrt(squares), 1e-9);
      EXPECT_TRUE(got.finite);
      EXPECT_EQ(global_norm(bench.context(world.rank()), mesh.data(), 0.0, 0.5).scale, 1.0) << "0 is off";
      EXPECT_EQ(global_norm(bench.context(world.rank()), mesh.data(), 1e6, 0.5).scale, 1.0)
          << "never scales up";
    });
  }
}

TEST(Clipping, NonFiniteLossOrGradientOfOneRankIsSeenByAll) {
  comm::run_threads(3, [&](comm::World& world) {
    comm::Mesh mesh(world, comm::MeshConfig{});
    Bench<float> bench(3);
    bench.fill_grads(4);
    const double loss = world.rank() == 1 ? std::numeric_limits<double>::infinity() : 0.1;
    EXPECT_FALSE(global_norm(bench.context(world.rank()), mesh.data(), 1.0, loss).finite);
    const comm::Piece piece = bench.context(2).pieces[0].front();
    if (world.rank() == 2) bench.store.grads(Group::kDense)[piece.group_offset] = std::nanf("");
    EXPECT_FALSE(global_norm(bench.context(world.rank()), mesh.data(), 1.0, 0.1).finite);
  });
}

}  // namespace
}  // namespace cadre::optim
