// Every objective: gradient by central differences, invariance to cutting the batch.
#include <gtest/gtest.h>

#include <cmath>

#include "optim/objective.h"
#include "parallel/base/rng.h"

namespace cadre::optim {
namespace {

using device::View;

Batch random_batch(int64_t sequences, int64_t seq_len) {
  Batch batch;
  batch.num_sequences = sequences;
  batch.seq_len = seq_len;
  for (int64_t i = 0; i < batch.num_tokens(); ++i) {
    batch.loss_mask.push_back(base::Philox(1).uniform(uint64_t(i)) < 0.7 ? 1.0f : 0.0f);
  }
  return batch;
}
std::vector<double> random_logp(int64_t n) {
  std::vector<double> logp;
  for (int64_t i = 0; i < n; ++i) logp.push_back(-3 * base::Philox(2).uniform(uint64_t(i)) - 0.01);
  return logp;
}
double trained(const Batch& batch) {
  double sum = 0;
  for (float m : batch.loss_mask) sum += m;
  return sum;
}
std::unique_ptr<Objective<double>> make(const std::string& name) {
  return make_objective<double>(base::parse_run_text(fmt::format("{{name: {}}}", name), "test.yaml", {}));
}

class EveryObjective : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryObjective, GradientMatchesCentralDifferences) {
  const Batch batch = random_batch(2, 9);
  const BatchCounts counts = {.trained_tokens = int64_t(trained(batch)), .real_tokens = 18, .sequences = 2};
  std::vector<double> logp = random_logp(18), dlogp(18, 99.0), unused(18);
  const auto objective = make(GetParam());
  const View<const double, 1> in(logp.data(), {18});
  objective->loss_and_grad(in, batch, counts, View<double, 1>(dlogp.data(), {18}));
  constexpr double h = 1e-5;
  for (size_t i = 0; i < logp.size(); ++i) {
    const double at = logp[i];
    logp[i] = at + h;
    const double up = objective->loss_and_grad(in, batch, counts, View<double, 1>(unused.data(), {18}));
    logp[i] = at - h;
    const double down = objective->loss_and_grad(in, batch, counts, View<double, 1>(unused.data(), {18}));
    logp[i] = at;
    EXPECT_NEAR(dlogp[i], (up - down) / (2 * h), 1e-9) << "element " << i;
    if (batch.loss_mask[i] == 0) {
      EXPECT_EQ(dlogp[i], 0) << "masked element " << i;
    }
  }
}
TEST_P(EveryObjective, SharesOfTwoHalvesAddUpToTheWhole) {
  const Batch batch = random_batch(4, 5);
  const BatchCounts counts = {.trained_tokens = int64_t(trained(batch)), .real_tokens = 20, .sequences = 4};
  std::vector<double> logp = random_logp(20), whole(20), halves(20);
  const auto objective = make(GetParam());
  const double loss = objective->loss_and_grad(View<const double, 1>(logp.data(), {20}), batch, counts,
                                               View<double, 1>(whole.data(), {20}));
  double sum = 0;
  for (int64_t half = 0; half < 2; ++half) {
    Batch part = batch;
    part.num_sequences = 2;
    part.loss_mask.assign(batch.loss_mask.begin() + half * 10, batch.loss_mask.begin() + half * 10 + 10);
    sum += objective->loss_and_grad(View<const double, 1>(logp.data() + half * 10, {10}), part, counts,
                                    View<double, 1>(halves.data() + half * 10, {10}));
  }
  EXPECT_NEAR(sum, loss, 1e-12);
  EXPECT_EQ(whole, halves);
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& entry : objective_table<double>()) all.push_back(entry.name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Table, EveryObjective, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(CrossEntropy, IsTheMeanOverTrainedTokensAndIgnoresMaskedInfinities) {
  Batch batch;
  batch.num_sequences = 1;
  batch.seq_len = 3;
  batch.loss_mask = {1, 0, 1};
  const std::vector<double> logp = {-1.0, -INFINITY, -3.0};
  std::vector<double> dlogp(3);
  const double loss = make("cross_entropy")
                          ->loss_and_grad(View<const double, 1>(logp.data(), {3}), batch,
                                          {.trained_tokens = 4, .real_tokens = 6, .sequences = 2},
                                          View<double, 1>(dlogp.data(), {3}));
  EXPECT_DOUBLE_EQ(loss, 1.0);  // (1 + 3) / 4 tokens of the global batch
  EXPECT_EQ(dlogp, (std::vector<double>{-0.25, 0, -0.25}));
}

}  // namespace
}  // namespace cadre::optim
