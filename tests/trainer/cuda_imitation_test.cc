// One rank of many on one GPU, the others imitated, against the same on the CPU.
#include <fmt/ranges.h>

#include <chrono>

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

// A wire so slow that its time is nearly all of a step's, by count: gradients come once and values once, half of each tensor;
// rows of experts four times a layer. Values are the same with it and without.
TEST_F(CudaImitationOnce, AWireTakesItsTimeAndChangesNoBit) {
  const Dataset dataset = testing::tiny_dataset();
  for (const char* layout : {"mesh.ep=1", "mesh.ep=2"}) {
    const Overrides run =
        with(kBf16, {layout, "moe.rebalance=0", "moe.shares=experts", "moe.dispatch=copy",
                     "train.global_batch=8", "train.micro_batch=4", "data.mask_documents=false"});
    comm::ImitatedWire wire;
    const auto timed = comm::make_imitated_world(2, &wire), none = comm::make_imitated_world(2);
    TrainState state(testing::tiny_run(run), dataset, *timed), other(testing::tiny_run(run), dataset, *none);
    const auto step = [](TrainState& s) {
      const auto start = std::chrono::steady_clock::now();
      const double loss = train_step(s, {}).loss;
      s.reducer.finish_values();
      s.model.queue.wait();
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      return std::pair(loss, time.count());
    };
    for (int i = 0; i < 3; ++i) EXPECT_EQ(step(state).first, step(other).first) << layout;
    const RunConfig& config = state.config();
    const bool split = config.mesh.ep > 1;
    const auto elements = [&](device::Group group) { return double(state.model.layout.group_size(group)); };
    double bytes = 2 * elements(device::Group::kDense);  // of bf16, both ways, half of them
    if (!split) bytes += 2 * elements(device::Group::kExpert);
    int layers = 0;
    for (int l = 0; l < config.model.layers; ++l) layers += config.model.is_moe(l) ? 1 : 0;
    const double row = 2 * double(config.model.dim);
    const double tokens = double(config.train.micro_batch * config.data.seq_len);
    if (split) bytes += 4 * layers * tokens * row;
    constexpr double kSeconds = 0.5;
    wire.bytes_per_s = bytes / kSeconds;
    const auto [loss, seconds] = step(state);
    EXPECT_EQ(loss, step(other).first) << layout;
    EXPECT_NEAR(seconds, kSeconds, 0.2 * kSeconds) << layout << ", " << bytes << " bytes by count";
    wire.bytes_per_s = 0;
    EXPECT_LT(step(state).second, 0.2 * kSeconds) << layout;
  }
}

}  // namespace
}  // namespace cadre::trainer
