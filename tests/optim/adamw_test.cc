// AdamW against the formula of its paper, and with moments in bf16.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/optim/optimizer_fixture.h"

namespace cadre::optim {
namespace {

using device::Group;
using device::View;
using testing::Bench;
using testing::section;

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

}  // namespace
}  // namespace cadre::optim
