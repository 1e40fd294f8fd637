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
