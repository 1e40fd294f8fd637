// The norm of all gradients, over ranks.
#include "optim/clipping.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/comm/mesh.h"
#include "tests/optim/optimizer_fixture.h"

namespace cadre::optim {
namespace {

using device::Group;
using testing::Bench;

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
