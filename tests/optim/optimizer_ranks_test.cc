// Optimizers on the slices of several ranks, and bucket by bucket while others are summed and sent.
#include <gtest/gtest.h>

#include "optim/clipping.h"
#include "parallel/comm/mesh.h"
#include "tests/optim/optimizer_fixture.h"

namespace cadre::optim {
namespace {

using device::Group;
using device::View;
using testing::Bench;
using testing::section;
using testing::small_table;

class EveryOptimizerOnRanks : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Table, EveryOptimizerOnRanks, ::testing::ValuesIn(testing::optimizer_names()),
                         [](const auto& info) { return info.param; });

// The slices of any number of ranks, updated one by one, give the bits of the whole.
TEST_P(EveryOptimizerOnRanks, ShardedEqualsWholeBitwise) {
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

TEST_P(EveryOptimizerOnRanks, BucketByBucketEqualsAllAtOnceBitwise) {
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

}  // namespace
}  // namespace cadre::optim
