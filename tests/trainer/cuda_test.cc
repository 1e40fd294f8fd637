// Whole runs on a GPU against the same runs on the CPU. Skipped where there is no GPU.
#include <cmath>

#include "moe/balance_loss.h"
#include "moe/router.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "tests/trainer/cuda_fixture.h"

namespace cadre::trainer {
namespace {

using testing::expect_same_gradients;
using testing::kBf16;
using testing::kCpu;
using testing::kFp32;
using testing::losses;
using testing::norms;
using testing::Overrides;
using testing::run_steps;
using testing::with;

class CudaRun : public testing::CudaRun {};

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
  for (const auto& optimizer : optim::optimizer_table<float>())
    all.push_back({fmt::format("optim={{name: {}, lr: 0.003}}", optimizer.name)});
  for (const auto& schedule : optim::schedule_table())
    all.push_back({fmt::format("schedule={{name: {}, warmup: 2}}", schedule.name)});
  all.push_back({"train.activation_recompute=selective", "model.qk_norm=head"});
  all.push_back({"train.activation_recompute=full", "model.qk_norm=full", "moe.num_shared=1"});
  all.push_back({"train.micro_batch=8", "model.qk_norm=true", "model.tie_head=false"});
  all.push_back({"data.mask_documents=false"});
  return all;
}

// Gradients of the first step, by row.
std::vector<std::vector<float>> gradients(const Overrides& overrides) {
  static const Dataset dataset = testing::tiny_dataset();
  std::vector<std::vector<float>> rows;
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(testing::tiny_run(overrides), dataset, world);
    train_step(state, {});
    rows = testing::gradients(state.model);
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
  expect_same_gradients(gradients(with(kFp32, GetParam())), gradients(with(kCpu, GetParam())), 2e-5, "fp32");
}
INSTANTIATE_TEST_SUITE_P(Tables, CudaRun, ::testing::ValuesIn(variants()));

class CudaOnce : public CudaRun {};
class CudaBf16 : public testing::CudaTest {};

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

// Every activation and gradient is rounded to 8 bits: about 14 roundings a layer, forward and back, each of at most 2^-9,
// independent of one another, pass through three layers, the head and the embedding. All experts are chosen, so that
// no rounding changes a choice. Sums inside kernels are in fp32, whose errors are far below.
void expect_gradients_of_the_cpu(const Overrides& run) {
  const auto exact = gradients(with(kCpu, run)), found = gradients(with(kBf16, run));
  const double bound = 0x1p-9 * std::sqrt(14.0 * 3 + 4) * 2;
  double worst = 0;
  for (size_t row = 0; row < exact.size(); ++row) {
    double error = 0, size = 0;
    for (size_t i = 0; i < exact[row].size(); ++i) {
      const double difference = double(found[row][i]) - double(exact[row][i]);
      error += difference * difference;
      size += double(exact[row][i]) * double(exact[row][i]);
    }
    worst = std::max(worst, std::sqrt(error / size));
    EXPECT_LE(std::sqrt(error), bound * std::sqrt(size)) << "row " << row;
  }
  std::printf("bf16 gradients: relative error of the worst tensor %.5f, bound %.5f\n", worst, bound);
}
TEST_F(CudaBf16, GradientsAreTheCpusToTheirRoundings) {
  expect_gradients_of_the_cpu({"train.micro_batch=8", "moe.top_k=4", "model.qk_norm=head"});
}
// Halves of layers whose weight gradients are one launch (OneExpert::wgrads) on a GPU of 132 multiprocessors; the second
// layer has experts.
TEST_F(CudaBf16, GradientsOfWideLayersAreTheCpusToTheirRoundings) {
  expect_gradients_of_the_cpu({"train.micro_batch=8", "moe.top_k=4", "model.layers=2", "model.dim=1024",
                               "model.heads=16", "model.kv_heads=16", "model.ffn_width=2816", "threads=14"});
}

TEST_P(CudaOnce, ActivationsMadeAgainGiveTheSameBits) {
  for (const char* norm : {"model.qk_norm=none", "model.qk_norm=head"}) {
    const auto kept = run_steps(1, with(kBf16, with(GetParam(), {norm})), 4);
    for (const char* mode : {"train.activation_recompute=selective", "train.activation_recompute=full"}) {
      const auto again = run_steps(1, with(kBf16, with(GetParam(), {norm, mode})), 4);
      EXPECT_EQ(losses(again), losses(kept)) << mode;
      EXPECT_EQ(norms(again), norms(kept)) << mode;
    }
  }
}

const Overrides kNarrow = {"optim={name: adamw, lr: 0.003, moments: bf16, rounding: stochastic}"};

// Moments differ by a rounding of 2^-8 in the few elements whose sums fall on another side.
TEST_P(CudaOnce, RoundingAtRandomFollowsTheCpuRepeatsAndResumesBitByBit) {
  const Overrides run = with(GetParam(), kNarrow);
  const auto expected = losses(run_steps(1, with(kCpu, run), 20));
  testing::expect_same_curve(losses(run_steps(1, with(kFp32, run), 20)), expected, "fp32", 2e-3);
  const auto whole = losses(run_steps(1, with(kBf16, run), 20));
  testing::expect_same_curve(whole, expected, "bf16", 0.03);
  EXPECT_EQ(losses(run_steps(1, with(kBf16, run), 20)), whole);
  EXPECT_NE(losses(run_steps(
                1, with(kBf16, with(GetParam(), {"optim={name: adamw, lr: 0.003, moments: bf16}"})), 20)),
            whole);
  testing::TempFolder folder;
  run_steps(1, with(kBf16, run), 10, folder.path());
  const auto resumed = losses(run_steps(1, with(kBf16, run), 20, folder.path()));
  EXPECT_EQ(resumed, std::vector<double>(whole.begin() + 10, whole.end()));
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

// Probes of the fourth step. The plain gradient has the errors of gradients; Adam's direction also blows up those of
// elements whose gradients are near 0.
TEST_P(CudaOnce, InfluenceIsTheCpus) {
  for (const char* direction : {"gradient", "optimizer"}) {
    const Overrides run =
        with(GetParam(), {"influence.period=3", "influence.micro_batches=1", "influence.tokens_per_domain=60",
                          "eval.tokens_per_domain=60", fmt::format("influence.direction={}", direction)});
    const auto probe = [&](const Overrides& device) {
      const auto reports = run_steps(1, with(run, device), 4);
      EXPECT_EQ(losses(reports), losses(run_steps(1, with(GetParam(), device), 4))) << "it changes training";
      return reports.back().probe.value_or(ProbeReport{});
    };
    const ProbeReport expected = probe(kCpu);
    ASSERT_EQ(expected.sums.size(), 1u);
    const bool plain = direction == std::string("gradient");
    for (const auto& [device, tolerance, identity] :
         {std::tuple{kFp32, plain ? 1e-3 : 2e-2, 1e-4}, {kBf16, plain ? 0.1 : 0.25, 1e-2}}) {
      const ProbeReport found = probe(device);
      ASSERT_EQ(found.sums.size(), 1u);
      EXPECT_LE(found.identity_error, identity);
      double size = 0, difference = 0;
      for (size_t k = 0; k < expected.sums[0].score.size(); ++k) {
        const double x = expected.sums[0].score[k];
        EXPECT_EQ(found.sums[0].tokens[k], expected.sums[0].tokens[k]);
        size += x * x;
        difference += std::pow(found.sums[0].score[k] - x, 2);
      }
      std::printf("influence, %s, %s: apart by %.2e of its norm, identity %.2e\n", direction,
                  device == kFp32 ? "fp32" : "bf16", std::sqrt(difference / size), found.identity_error);
      EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << direction;
      EXPECT_EQ(probe(device).sums[0].score, found.sums[0].score) << "differs on repetition";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, CudaOnce, ::testing::Values(Overrides{}, Overrides{"train.micro_batch=8"}));

}  // namespace
}  // namespace cadre::trainer
