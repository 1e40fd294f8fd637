// Whole runs on a GPU against the same runs on the CPU. Skipped where there is no GPU.
#include <cmath>

#include "moe/balance_loss.h"
#include "moe/router.h"
#include "parallel/device/accelerator.h"
#include "parallel/device/transfer.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer {
namespace {

using testing::losses;
using testing::norms;
using testing::run_steps;
using Overrides = std::vector<std::string>;

bool have_gpu() {
  for (const device::Accelerator& entry : device::accelerators()) {
    if (entry.probe().num_devices > 0) return true;
  }
  return false;
}

Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}
const Overrides kCpu = {"device=cpu"}, kFp32 = {"device=cuda", "precision=fp32"}, kBf16 = {"device=cuda"};

class CudaRun : public ::testing::TestWithParam<Overrides> {
 protected:
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

std::vector<Overrides> variants() {
  std::vector<Overrides> all;
  for (const auto& router : moe::router_table<float>()) {
    const bool chooses = router.name == std::string("expert_choice");
    for (const auto& balance : moe::balance_table<float>()) {
      if (chooses && balance.name != std::string("none")) continue;
      all.push_back({fmt::format("moe.router={{name: {}}}", router.name),
                     fmt::format("moe.balance={{name: {}}}", balance.name)});
    }
  }
  all.push_back({"moe.capacity_factor=0.8", "moe.num_shared=1"});
  all.push_back({"optim.name=muon"});
  all.push_back({"train.micro_batch=8", "model.qk_norm=true", "model.tie_head=false"});
  all.push_back({"data.mask_documents=false"});
  return all;
}

// Gradients of the last step, by row.
std::vector<std::vector<float>> gradients(const Overrides& overrides) {
  static const Dataset dataset = testing::tiny_dataset();
  std::vector<std::vector<float>> rows;
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(testing::tiny_run(overrides), dataset, world);
    train_step(state, {});
    for (int row = 0; row < int(state.model.table.rows().size()); ++row) {
      const device::Placement& place = state.model.layout.at(row);
      std::vector<float> values(size_t(place.count));
      device::download<float>(state.model.queue,
                              state.model.store.grads(place.group).rows(place.offset, place.count), values);
      state.model.queue.wait();
      rows.push_back(values);
    }
  });
  return rows;
}

// In fp32 both devices do the same sums in another order: sums of n terms differ by about sqrt(n) roundings of 6e-8,
// and n is at most a few thousand here; gradients pass through some ten such sums.
TEST_P(CudaRun, Fp32LossesAndGradientsAreTheCpus) {
  const auto expected = run_steps(1, with(kCpu, GetParam()), 8);
  const auto got = run_steps(1, with(kFp32, GetParam()), 8);
  testing::expect_same_curve(losses(got), losses(expected), "loss", 1e-4);
  testing::expect_same_curve(norms(got), norms(expected), "gradient norm", 5e-3);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i].aux_loss, expected[i].aux_loss, 1e-3 * std::abs(expected[i].aux_loss) + 1e-9) << i;
    EXPECT_NEAR(got[i].z_loss, expected[i].z_loss, 1e-3 * std::abs(expected[i].z_loss) + 1e-9) << i;
  }
  const auto exact = gradients(with(kCpu, GetParam())), other = gradients(with(kFp32, GetParam()));
  for (size_t row = 0; row < exact.size(); ++row) {
    double largest = 0, difference = 0;
    for (size_t i = 0; i < exact[row].size(); ++i) {
      largest = std::max(largest, std::abs(double(exact[row][i])));
      difference = std::max(difference, std::abs(double(exact[row][i]) - double(other[row][i])));
    }
    EXPECT_LE(difference, 2e-5 * largest) << "row " << row;
  }
}
INSTANTIATE_TEST_SUITE_P(Tables, CudaRun, ::testing::ValuesIn(variants()));

class CudaOnce : public CudaRun {};

TEST_P(CudaOnce, Bf16RunRepeatsBitByBit) {
  const auto first = run_steps(1, with(kBf16, GetParam()), 6),
             second = run_steps(1, with(kBf16, GetParam()), 6);
  EXPECT_EQ(losses(first), losses(second));
  EXPECT_EQ(norms(first), norms(second));
}

// A model of five million parameters. bf16 keeps 8 bits, so single losses differ by a few 1e-3 at first and, as two runs
// drift apart, by a few 1e-2; the curve is the same.
TEST_P(CudaOnce, Bf16LearnsWhatTheCpuLearns) {
  const Overrides run =
      with(GetParam(), {"train.steps=200", "model.dim=128", "model.layers=4", "model.ffn_width=256",
                        "moe.width=256", "moe.num_experts=16", "data.seq_len=64", "train.global_batch=32",
                        "train.micro_batch=16", "optim.lr=1e-3", "threads=14"});
  const auto expected = losses(run_steps(1, with(run, kCpu), 200)),
             got = losses(run_steps(1, with(run, kBf16), 200));
  double mean = 0, signed_mean = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    mean += std::abs(got[i] - expected[i]) / double(got.size());
    signed_mean += (got[i] - expected[i]) / double(got.size());
  }
  std::printf(
      "bf16 against fp32 on the CPU: first %.6f %.6f, last %.6f %.6f, difference %.6f mean, %.6f signed\n",
      got[0], expected[0], got.back(), expected.back(), mean, signed_mean);
  EXPECT_NEAR(got[0], expected[0], 3e-3);
  EXPECT_LT(mean, 0.02);
  EXPECT_LT(got.back(), 0.8 * got.front());
}

TEST_P(CudaOnce, CheckpointsGoFromDeviceToDevice) {
  for (const auto& [first, second] : {std::pair{kCpu, kFp32}, {kBf16, kCpu}, {kCpu, kBf16}}) {
    testing::TempFolder folder;
    run_steps(1, with(first, GetParam()), 5, folder.path());
    const auto resumed = run_steps(1, with(second, GetParam()), 10, folder.path());
    const auto whole = run_steps(1, with(kCpu, GetParam()), 10);
    ASSERT_EQ(resumed.size(), 5u);
    for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(resumed[i].loss, whole[5 + i].loss, 0.03) << i;
  }
}

TEST_P(CudaOnce, InfluenceIsRefused) {
  for (const Overrides& device : {kFp32, kBf16}) {
    try {
      run_steps(1, with(with(device, GetParam()), {"influence.period=4"}), 1);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(e.what()).find("influence is measured on the CPU only"), std::string::npos);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, CudaOnce, ::testing::Values(Overrides{}, Overrides{"train.micro_batch=8"}));

}  // namespace
}  // namespace cadre::trainer
