// Runs on several GPUs, one process each, against the same runs on one. Skipped where there are fewer GPUs, but for ranks that
// may share one.
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "parallel/comm/transports.h"
#include "parallel/device/accelerator.h"
#include "tests/comm/nccl/one_gpu.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer {
namespace {

using testing::losses;
using testing::norms;
using Overrides = std::vector<std::string>;

comm::World* g_world = nullptr;  // of main

Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}
const Overrides kFp32 = {"device=cuda", "precision=fp32"}, kBf16 = {"device=cuda"};

std::vector<StepReport> steps(comm::World& world, const Overrides& overrides, uint64_t until) {
  static const Dataset dataset = testing::tiny_dataset();
  TrainState state(testing::tiny_run(overrides), dataset, world);
  std::vector<StepReport> reports;
  while (state.progress.step < until) reports.push_back(train_step(state, {}));
  return reports;
}
// On one GPU. Every rank computes it on its own, as rank 0 of a world without others.
std::vector<StepReport> alone(const Overrides& overrides, uint64_t until) {
  const auto world = comm::make_local_world();
  return steps(*world, overrides, until);
}

// In the order of a matrix of layouts and options.
std::vector<Overrides> layouts() {
  const Overrides dp = {"mesh.ep=1", "train.micro_batch=4"}, ep = {"mesh.ep=2", "train.micro_batch=4"};
  std::vector<Overrides> all;
  for (const Overrides& layout : {dp, ep}) {
    all.push_back(layout);
    all.push_back(with(layout, {"train.micro_batch=2", "moe.num_shared=1"}));  // gradients are summed in fp32
    all.push_back(with(layout, {"moe.balance={name: previous_batch}", "moe.router={name: sigmoid_bias}"}));
    all.push_back(with(layout, {"train.global_batch=3", "train.micro_batch=2", "moe.balance={name: none}"}));
    all.push_back(with(layout, {"optim.name=muon", "model.tie_head=false"}));
    all.push_back(with(layout, {"mesh.zero=0"}));
    all.push_back(with(layout, {"mesh.zero=2", "train.micro_batch=2"}));
    all.push_back(with(layout, {"mesh.zero=3", "train.activation_recompute=full", "model.tie_head=false"}));
  }
  all.push_back(with({"mesh.ep=2", "train.micro_batch=4"}, {"moe.dispatch=peer"}));
  all.push_back(with({"mesh.ep=2", "train.micro_batch=2"}, {"moe.dispatch=peer", "moe.num_shared=1"}));
  // Of 256: parts of whole tiles. Roundings grow with the rate, on CPU ranks too: at 0.003 whole experts are 4e-4 off as well.
  all.push_back({"mesh.ep=2", "train.micro_batch=4", "moe.shares=width", "moe.width=256", "optim.lr=0.0003"});
  all.push_back({"mesh.ep=2", "train.micro_batch=2", "moe.shares=width", "moe.num_shared=1", "mesh.zero=3"});
  all.push_back(with({"mesh.ep=2", "train.micro_batch=4"}, {"moe.dispatch=copy"}));
  all.push_back(with({"mesh.ep=2", "train.micro_batch=2"}, {"moe.dispatch=copy", "moe.num_shared=1"}));
  // Both GPUs share the sequences: two KV heads, one each; and one that both have.
  const Overrides context = {"mesh.cp=2", "train.micro_batch=8", "moe.balance={name: previous_batch}"};
  all.push_back(with(context, {"model.kv_heads=2"}));
  all.push_back(with(context, {"mesh.ep=2", "model.qk_norm=head", "train.micro_batch=3"}));
  all.push_back(
      with(context, {"data.mask_documents=false", "mesh.zero=3", "train.activation_recompute=full"}));
  return all;
}

class CudaRanks : public ::testing::TestWithParam<Overrides> {};

// What depends on the split is not in the list. Sums over ranks come in another order than sums in one product.
TEST_P(CudaRanks, Fp32CurvesAreThoseOfOneGpu) {
  const auto expected = alone(with(with(kFp32, GetParam()), {"mesh.ep=1", "mesh.cp=1"}), 12),
             got = steps(*g_world, with(kFp32, GetParam()), 12);
  testing::expect_same_curve(losses(got), losses(expected), "loss", 1e-4);
  testing::expect_same_curve(norms(got), norms(expected), "gradient norm", 5e-3);
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i].expert_tokens.size(), expected[i].expert_tokens.size());
}

TEST_P(CudaRanks, Bf16RepeatsBitByBit) {
  const auto first = steps(*g_world, with(kBf16, GetParam()), 6),
             second = steps(*g_world, with(kBf16, GetParam()), 6);
  EXPECT_EQ(losses(first), losses(second));
  EXPECT_EQ(norms(first), norms(second));
}
INSTANTIATE_TEST_SUITE_P(Layouts, CudaRanks, ::testing::ValuesIn(layouts()));

// One micro-batch a step. Without clipping: the norm is summed in packs where slices begin at 16 bytes, which stages do
// not share.
TEST(CudaRanksOnce, StagesOfZeroTrainTheSameBits) {
  for (const char* layout : {"mesh.ep=1", "mesh.ep=2"}) {
    for (const char* optimizer : {"optim={name: adamw, lr: 0.003}", "optim={name: muon, lr: 0.003}",
                                  "optim={name: adamw, lr: 0.003, moments: bf16, rounding: stochastic}"}) {
      const Overrides run = with(kBf16, {layout, optimizer, "train.micro_batch=4", "train.clip_norm=0"});
      const auto one = steps(*g_world, run, 6);
      for (const char* stage : {"mesh.zero=2", "mesh.zero=3"}) {
        const auto more = steps(*g_world, with(run, {stage}), 6);
        EXPECT_EQ(losses(more), losses(one)) << layout << ", " << optimizer << ", " << stage;
        testing::expect_same_curve(norms(more), norms(one), stage, 1e-6);
      }
    }
  }
}

// The same rows, sums in the same order: another way to travel changes no bit.
TEST(CudaRanksOnce, PeerAndCopyDispatchGiveTheBitsOfTheGather) {
  for (const Overrides& run :
       {Overrides{"train.micro_batch=4"}, Overrides{"train.micro_batch=2", "moe.num_shared=1"},
        Overrides{"train.global_batch=3", "train.micro_batch=2", "moe.balance={name: none}"},
        Overrides{"train.micro_batch=4", "train.activation_recompute=full"}}) {
    const Overrides ep = with(with(kBf16, {"mesh.ep=2"}), run);
    const auto gather = steps(*g_world, with(ep, {"moe.dispatch=gather"}), 6);
    for (const char* dispatch : {"moe.dispatch=peer", "moe.dispatch=copy"}) {
      const auto other = steps(*g_world, with(ep, {dispatch}), 6);
      EXPECT_EQ(losses(other), losses(gather)) << dispatch << ", " << run.back();
      EXPECT_EQ(norms(other), norms(gather)) << dispatch << ", " << run.back();
    }
  }
}

// Experts that change GPUs leave the curve as it is: in fp32 by roundings, in bf16 by those of sums in another order.
TEST(CudaRanksOnce, ExpertsThatMoveChangeNothing) {
  for (const Overrides& run :
       {Overrides{"mesh.zero=1"}, Overrides{"mesh.zero=3", "train.micro_batch=2"},
        Overrides{"optim={name: adamw, lr: 0.003, moments: bf16, rounding: stochastic}"},
        Overrides{"optim={name: muon, lr: 0.003}", "moe.dispatch=peer", "moe.router={name: sigmoid_bias}"}}) {
    const bool exact = run[0].find("stochastic") == std::string::npos;
    for (const Overrides& precision : {kFp32, kBf16}) {
      const Overrides ep =
          with(with(precision, {"mesh.ep=2", "moe.num_experts=8", "train.micro_batch=4"}), run);
      const auto kept = steps(*g_world, with(ep, {"moe.rebalance=0"}), 12),
                 moved = steps(*g_world, with(ep, {"moe.rebalance=3"}), 12);
      size_t moves = 0;
      for (const StepReport& report : moved) moves += report.moved_experts.size();
      EXPECT_GT(moves, 0u) << run[0];
      const bool fp32 = precision.size() == kFp32.size();
      testing::expect_same_curve(losses(moved), losses(kept), run[0], fp32 && exact ? 1e-4 : 1e-2);
    }
  }
}

// The counts of all ranks make f; one micro-batch a rank, so that the split does not matter.
TEST(CudaRanksOnce, GlobalBatchBalanceDoesNotDependOnRanks) {
  const Overrides run = with(kFp32, {"moe.balance={name: global_batch, coef: 0.05}"});
  const auto expected = alone(with(run, {"train.micro_batch=8"}), 10),
             got = steps(*g_world, with(run, {"train.micro_batch=4", "mesh.ep=2"}), 10);
  testing::expect_same_curve(losses(got), losses(expected), "loss", 1e-4);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i].aux_loss, expected[i].aux_loss, 1e-3 * expected[i].aux_loss);
}

// A model of a few million parameters for 100 steps: in bf16 single losses differ by a few 1e-3, the curve is the same.
TEST(CudaRanksOnce, Bf16LearnsWhatOneGpuLearns) {
  const Overrides run =
      with(kBf16, {"train.steps=100", "model.dim=128", "model.layers=4", "model.ffn_width=256",
                   "moe.width=256", "moe.num_experts=16", "data.seq_len=64", "train.global_batch=32",
                   "train.micro_batch=16", "optim.lr=1e-3", "moe.balance={name: previous_batch}"});
  const auto expected = losses(alone(run, 100));
  for (const char* layout : {"mesh.ep=1", "mesh.ep=2"}) {
    const auto got = losses(steps(*g_world, with(run, {layout}), 100));
    double mean = 0, signed_mean = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      mean += std::abs(got[i] - expected[i]) / double(got.size());
      signed_mean += (got[i] - expected[i]) / double(got.size());
    }
    if (g_world->rank() == 0)
      std::printf("%s against one GPU: first %.6f %.6f, last %.6f %.6f, difference %.6f mean, %.6f signed\n",
                  layout, got[0], expected[0], got.back(), expected.back(), mean, signed_mean);
    EXPECT_NEAR(got[0], expected[0], 3e-3) << layout;
    EXPECT_LT(mean, 0.02) << layout;
  }
}

// A weight that is not a number on one of the ranks; the others learn of it from the agreed loss.
TEST(CudaRanksOnce, ANonFiniteWeightOnOneRankMakesAllSkip) {
  const Dataset dataset = testing::tiny_dataset();
  for (const char* layout : {"mesh.ep=1", "mesh.ep=2"}) {
    TrainState state(testing::tiny_run(with(kBf16, {layout, "train.micro_batch=4"})), dataset, *g_world);
    train_step(state, {});
    state.reducer.finish_values();
    device::Queue& queue = state.model.queue;
    std::vector<float> saved(1), broken = {std::nanf("")};
    state.model.store.get(queue, device::Group::kDense, 0, saved);
    if (g_world->rank() == 1) state.model.store.set(queue, device::Group::kDense, 0, broken);
    EXPECT_TRUE(train_step(state, {}).skipped) << layout;
    EXPECT_EQ(state.optimizer->updates(), 1) << layout;
    state.model.store.set(queue, device::Group::kDense, 0, saved);
    EXPECT_FALSE(train_step(state, {}).skipped) << layout;
  }
}

// The snapshot is of the step it was asked after, though updates follow while it is written.
TEST(CudaRanksOnce, ACheckpointMadeBesideStepsContinuesBitByBit) {
  const Dataset dataset = testing::tiny_dataset();
  const auto all = g_world->everyone("folder");
  const auto names = all->gather_texts(fmt::format("cadre-cuda-ranks-{}", getpid()), "folder");
  const auto folder = std::filesystem::temp_directory_path() / names.front();
  for (const char* layout : {"mesh.ep=1", "mesh.ep=2", "mesh.zero=3"}) {
    const Overrides run = with(kBf16, {layout, "train.micro_batch=4", "checkpoint.every=4"});
    std::vector<StepReport> straight, resumed;
    {
      TrainState state(testing::tiny_run(run), dataset, *g_world);
      CheckpointWriter writer(folder / layout, state);
      for (int step = 0; step < 4; ++step) train_step(state, {});
      writer.start();
      for (int step = 0; step < 4; ++step) straight.push_back(train_step(state, {}));
      EXPECT_EQ(writer.finish().error, "");
    }
    TrainState state(testing::tiny_run(run), dataset, *g_world);
    TensorReader reader(*newest_checkpoint(folder / layout, state.model.mesh.data()));
    restore(state, reader);
    EXPECT_EQ(state.progress.step, 4u);
    for (int step = 0; step < 4; ++step) resumed.push_back(train_step(state, {}));
    EXPECT_EQ(losses(resumed), losses(straight)) << layout;
    EXPECT_EQ(norms(resumed), norms(straight)) << layout;
  }
  all->barrier("remove the folder");
  if (g_world->rank() == 0) std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace cadre::trainer

// Each rank sees one GPU alone, as under some launchers, so that it can also be the only rank of a world. Before anything
// asks for GPUs.
void show_own_gpu() {
  if (cadre::comm::ranks_may_share_a_gpu()) return;
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  if (local != nullptr) setenv("CUDA_VISIBLE_DEVICES", local, 1);
}

int main(int argc, char** argv) {
  show_own_gpu();
  testing::InitGoogleTest(&argc, argv);
  const auto world = cadre::comm::make_world(&argc, &argv);
  cadre::trainer::g_world = world.get();
  const auto probe = cadre::device::accelerator(cadre::device::DeviceKind::kCuda).probe();
  const auto all = world->everyone("all");
  if (world->size() < 2 || all->all_reduce(probe.num_devices, cadre::comm::ReduceOp::kMin, "GPUs") == 0) {
    if (world->rank() == 0) std::printf("[  SKIPPED ] %d ranks: %s\n", world->size(), probe.report.c_str());
    return 0;
  }
  if (world->rank() != 0) testing::GTEST_FLAG(brief) = true;  // failures only
  return RUN_ALL_TESTS();
}
