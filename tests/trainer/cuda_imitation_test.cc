// One rank of many on one GPU, the others imitated, against the same on the CPU.
#include <fmt/ranges.h>

#include "parallel/comm/transports.h"
#include "tests/trainer/cuda_fixture.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {
namespace {

using testing::kBf16;
using testing::kCpu;
using testing::kFp32;
using testing::Overrides;
using testing::with;

std::vector<StepReport> imitated_steps(int ranks, const Overrides& overrides, int steps) {
  const Dataset dataset = testing::tiny_dataset();
  const auto world = comm::make_imitated_world(ranks);
  TrainState state(testing::tiny_run(overrides), dataset, *world);
  std::vector<StepReport> reports;
  for (int step = 0; step < steps; ++step) reports.push_back(train_step(state, {}));
  return reports;
}

class CudaImitation : public testing::CudaRun {};

TEST_P(CudaImitation, LearnsTheCurveOfTheCpus) {
  constexpr int kSteps = 6;
  const Overrides layout = with(GetParam(), {"moe.dispatch=gather", "moe.rebalance=0"});
  for (const int ranks : {2, 4}) {
    const auto cpu = imitated_steps(ranks, with(kCpu, layout), kSteps);
    const auto gpu = imitated_steps(ranks, with(kFp32, layout), kSteps);
    const std::string what = fmt::format("{} of {} ranks", fmt::join(GetParam(), " "), ranks);
    testing::expect_same_curve(testing::losses(gpu), testing::losses(cpu), what);
    testing::expect_same_curve(testing::norms(gpu), testing::norms(cpu), what, 1e-3);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, CudaImitation,
                         ::testing::Values(Overrides{"mesh.ep=1", "mesh.zero=0"},
                                           Overrides{"mesh.ep=2", "mesh.zero=1", "moe.shares=experts"},
                                           Overrides{"mesh.ep=2", "mesh.zero=2", "moe.shares=width",
                                                     "moe.width=256", "optim.lr=0.0003"},
                                           Overrides{"mesh.ep=1", "mesh.zero=3"},
                                           Overrides{"mesh.ep=1", "mesh.cp=2"}));

class CudaImitationOnce : public testing::CudaTest {};

// Peers' regions are this rank's own: nothing is opened and nobody is awaited.
TEST_F(CudaImitationOnce, AllDispatchesTakeTheirSteps) {
  for (const char* dispatch : {"moe.dispatch=auto", "moe.dispatch=copy", "moe.dispatch=peer"}) {
    const auto reports =
        imitated_steps(4, with(kBf16, {"mesh.ep=4", "moe.shares=experts", dispatch, "moe.rebalance=0"}), 4);
    for (const StepReport& report : reports) {
      EXPECT_FALSE(report.skipped) << dispatch;
      EXPECT_LT(report.loss, 2 * reports[0].loss) << dispatch;
    }
  }
}

}  // namespace
}  // namespace cadre::trainer
