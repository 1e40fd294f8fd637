// Every objective on a GPU against the same on the CPU: fine-tuning and preference training as whole runs, and all rows
// of the table through the model's backward pass.
#include <cmath>

#include "parallel/base/rng.h"
#include "tests/trainer/cuda_fixture.h"
#include "tests/trainer/post_training_fixture.h"

namespace cadre::trainer {
namespace {

using testing::kBf16;
using testing::kCpu;
using testing::kFp32;
using testing::losses;
using testing::norms;
using testing::Overrides;
using testing::with;

std::vector<StepReport> train_on(const Dataset& set, const Overrides& overrides, uint64_t until,
                                 const std::filesystem::path& folder = {}) {
  return testing::train_on(
      set, [&] { return testing::tiny_run(overrides); }, 1, until, folder);
}

class CudaPostTraining : public testing::CudaTest {};

// Tolerances as in cuda_test.cc.
TEST_F(CudaPostTraining, FineTuningIsTheCpus) {
  const Dataset set = testing::conversations();
  const auto expected = train_on(set, kCpu, 8), got = train_on(set, kFp32, 8),
             narrow = train_on(set, kBf16, 8);
  testing::expect_same_curve(losses(got), losses(expected), "loss", 1e-4);
  testing::expect_same_curve(norms(got), norms(expected), "gradient norm", 5e-3);
  testing::expect_same_curve(losses(narrow), losses(expected), "bf16", 0.01);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i].counts.trained_tokens, expected[i].counts.trained_tokens);
}

TEST_F(CudaPostTraining, PreferencesAreTheCpusAndResumeWithTheirReference) {
  const Dataset set = testing::preferences();
  const auto run = [&](const Overrides& device) {
    return with(with(testing::kPairs, {"optim.lr=1.0e-2", "objective.beta=0.5"}), device);
  };
  const auto expected = train_on(set, run(kCpu), 12), got = train_on(set, run(kFp32), 12),
             narrow = train_on(set, run(kBf16), 12);
  EXPECT_NEAR(got[0].loss, std::log(2.0), 1e-5);
  EXPECT_NEAR(narrow[0].loss, std::log(2.0), 1e-5) << "reference and policy are the same bits";
  testing::expect_same_curve(losses(got), losses(expected), "loss", 2e-4);
  testing::expect_same_curve(losses(narrow), losses(expected), "bf16", 0.1);
  EXPECT_LT(narrow.back().loss, narrow.front().loss);
  testing::TempFolder folder;
  train_on(set, run(kBf16), 6, folder.path());
  const std::vector<double> whole = losses(narrow);
  EXPECT_EQ(losses(train_on(set, run(kBf16), 12, folder.path())),
            std::vector<double>(whole.begin() + 6, whole.end()));
}

// Two answers of one prompt a row, with all that an objective may ask for.
Batch answers(int64_t rows, int64_t seq_len) {
  const base::Philox rng(5);
  Batch b;
  b.num_sequences = rows;
  b.seq_len = seq_len;
  for (int64_t t = 0; t < rows * seq_len; ++t) {
    const int64_t at = t % seq_len, half = seq_len / 2, place = at % half;
    b.tokens.push_back(int32_t(rng.bits(uint64_t(t)) % testing::kVocab));
    b.targets.push_back(int32_t(rng.bits(uint64_t(t), 1) % testing::kVocab));
    b.loss_mask.push_back(place >= 2);
    b.segment.push_back(int32_t(at / half));
    b.position.push_back(int32_t(place));
    b.domain.push_back(0);
    b.document.push_back(t / half);
    if (place == 0) b.advantage.push_back(rng.normal(uint64_t(t), 2));
  }
  return b;
}

struct Outcome {
  double loss = 0;
  std::vector<std::vector<float>> grads;
};
// Policies of the past are the CPU's own with noise, the same for every device.
Outcome objective_on(const Overrides& device, const std::string& name, Batch& batch) {
  Outcome outcome;
  comm::run_threads(1, [&](comm::World& world) {
    RunConfig config = testing::tiny_run(with({"moe.balance=none", "data.seq_len=16"}, device));
    set_vocab(config, testing::kVocab);
    ModelState model(config, world, batch.num_sequences, true);
    const auto objective =
        optim::make_objective<Real>(base::parse_run_text("{name: " + name + "}", "t.yaml", {}));
    const int64_t tokens = batch.num_tokens();
    const BatchCounts counts{.trained_tokens = tokens - 4 * batch.num_sequences,
                             .real_tokens = tokens,
                             .sequences = batch.num_sequences,
                             .trained_segments = 2 * batch.num_sequences,
                             .pairs = batch.num_sequences};
    model.store.start_grads(model.queue);
    model.decoder.begin_step();
    const auto logp = model.decoder.forward(batch, true);
    const base::Philox rng(7);
    uint64_t stream = 0;
    for (auto* past : {&batch.logp_old, &batch.logp_rollout, &batch.logp_reference}) {
      if (int64_t(past->size()) == tokens) continue;
      ++stream;
      for (int64_t t = 0; t < tokens; ++t)
        past->push_back(double(logp[t]) + 0.1 * rng.normal(uint64_t(t), stream));
    }
    std::vector<Real> dlogp(static_cast<size_t>(tokens));
    const device::View<Real, 1> gradient(dlogp.data(), {tokens});
    outcome.loss = objective->loss_and_grad(logp, batch, counts, gradient);
    model.decoder.backward(gradient, counts, [](int) {});
    model.queue.wait();
    outcome.grads = testing::gradients(model);
  });
  return outcome;
}

class CudaObjective : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaObjective, LossAndGradientsAreTheCpus) {
  if (!testing::have_gpu()) GTEST_SKIP() << "no GPU here";
  Batch batch = answers(4, 16);
  const Outcome expected = objective_on(kCpu, GetParam(), batch),
                got = objective_on(kFp32, GetParam(), batch);
  EXPECT_NEAR(got.loss, expected.loss, 1e-5 * std::abs(expected.loss) + 1e-6);
  // Log-probabilities differ by some 1e-6, which weights with exponentials of their sums pass on.
  testing::expect_same_gradients(got.grads, expected.grads, 1e-4, GetParam());
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& entry : optim::objective_table<Real>()) all.push_back(entry.name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Table, CudaObjective, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace cadre::trainer
