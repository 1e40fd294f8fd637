// Every objective: gradient by central differences, invariance to packing and cutting the batch.
#include <gtest/gtest.h>

#include "optim/sequence_metrics.h"
#include "tests/optim/objective_batches.h"

namespace cadre::optim {
namespace {

using testing::count;
using testing::make;
using testing::pack;
using testing::Packed;
using testing::run;
using testing::Sequence;

std::vector<double> some_advantages(size_t n) {
  std::vector<double> a;
  for (size_t i = 0; i < n; ++i) a.push_back(0.4 * double(i % 5) - 0.7);
  return a;
}

class EveryObjective : public ::testing::TestWithParam<std::string> {
 protected:
  bool detached() const {
    for (const char* name : {"vespo", "reinforce", "cispo", "topr"}) {
      if (GetParam().find(name) != std::string::npos) return true;
    }
    return false;
  }
};

// The weight of a detached objective is a constant: moving the behaviour with the policy keeps it one.
TEST_P(EveryObjective, GradientMatchesCentralDifferences) {
  const std::vector<Sequence> all = testing::random_sequences(8, 0.4);
  const auto objective = make(GetParam());
  Packed p = pack(all, some_advantages(8), 0, 8, 2, 20);
  const BatchCounts counts = count(all);
  std::vector<double> dlogp, unused;
  run(*objective, p, counts, dlogp);
  const std::vector<double> frozen = p.batch.logp_old;
  constexpr double h = 1e-6;
  double largest = 0;
  for (size_t i = 0; i < p.logp.size(); ++i) {
    if (p.batch.loss_mask[i] == 0) {
      EXPECT_EQ(dlogp[i], 0) << "masked element " << i;
      continue;
    }
    const auto shifted = [&](double by) {
      Packed q = p;
      q.logp[i] += by;
      if (detached()) q.batch.logp_old[i] += by, q.batch.logp_rollout[i] += by;
      return run(*objective, q, counts, unused);
    };
    EXPECT_NEAR(dlogp[i], (shifted(h) - shifted(-h)) / (2 * h), 1e-8) << "element " << i;
    largest = std::max(largest, std::abs(dlogp[i]));
  }
  EXPECT_GT(largest, 1e-3);
}

TEST_P(EveryObjective, PackingPaddingAndUnevenSplitsChangeNothing) {
  const std::vector<Sequence> all = testing::random_sequences(12, 0.3);
  const std::vector<double> advantage = some_advantages(12);
  const BatchCounts counts = count(all);
  const auto objective = make(GetParam());
  std::vector<double> whole, part;
  const Packed packed = pack(all, advantage, 0, 12, 6, 54);
  const double loss = run(*objective, packed, counts, whole);
  double sum = 0;
  const size_t cuts[] = {0, 2, 8, 12};
  for (int c = 0; c < 3; ++c) {
    const Packed padded = pack(all, advantage, cuts[c], cuts[c + 1], 2, 18 + c);
    sum += run(*objective, padded, counts, part);
    for (size_t k = cuts[c]; k < cuts[c + 1]; ++k) {
      for (size_t t = 0; t < all[k].mask.size(); ++t)
        EXPECT_EQ(part[padded.start[k - cuts[c]] + t], whole[packed.start[k] + t])
            << "sequence " << k << ", token " << t;
    }
  }
  EXPECT_NEAR(sum, loss, 1e-14);
}

TEST_P(EveryObjective, TrainsOnNothingInABatchOfPadding) {
  std::vector<Sequence> all = testing::random_sequences(2, 0.3);
  for (Sequence& s : all) s.mask.assign(s.mask.size(), 0);
  std::vector<double> dlogp;
  EXPECT_EQ(run(*make(GetParam()), pack(all, {1, -1}, 0, 2, 2, 20), count(all), dlogp), 0);
  EXPECT_EQ(dlogp, std::vector<double>(20, 0.0));
}

std::vector<std::string> cases() {
  std::vector<std::string> all;
  for (const auto& entry : objective_table<double>()) {
    all.push_back(fmt::format("{{name: {}}}", entry.name));
    if (std::string(entry.name) == "dpo") continue;
    all.push_back(fmt::format("{{name: {}, aggregation: seq-mean-token-sum}}", entry.name));
    all.push_back(
        fmt::format("{{name: {}, aggregation: seq-mean-token-mean, behaviour: rollout}}", entry.name));
    all.push_back(
        fmt::format("{{name: {}, aggregation: seq-mean-token-sum-norm, norm_length: 7}}", entry.name));
  }
  for (const char* more :
       {"{name: grpo, kl_coef: 0.3, dual_clip: 1.2, tis_multiplier_cap: 1.1}", "{name: vespo, tis_cap: 1.1}",
        "{name: reinforce, level: sequence, tis_cap: 1.5}", "{name: dpo, loss: ipo}",
        "{name: dpo, loss: cdpo, label_smoothing: 0.2, beta: 0.7}",
        "{name: dpo, loss: robust, label_smoothing: 0.3}"}) {
    all.push_back(more);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Table, EveryObjective, ::testing::ValuesIn(cases()));

TEST(CrossEntropy, IsTheMeanOverTrainedTokensAndIgnoresMaskedInfinities) {
  Packed p;
  p.batch.num_sequences = 1;
  p.batch.seq_len = 3;
  p.batch.loss_mask = {1, 0, 1};
  p.logp = {-1.0, -INFINITY, -3.0};
  std::vector<double> dlogp;
  const BatchCounts counts{
      .trained_tokens = 4, .real_tokens = 6, .sequences = 2, .trained_segments = 2, .pairs = 0};
  EXPECT_DOUBLE_EQ(run(*make("{name: cross_entropy}"), p, counts, dlogp), 1.0);  // (1 + 3) / 4 tokens
  EXPECT_EQ(dlogp, (std::vector<double>{-0.25, 0, -0.25}));
}

TEST(Vespo, EqualsReinforceWhereThePoliciesAgree) {
  std::vector<Sequence> all = testing::random_sequences(9, 0.3);
  for (Sequence& s : all) s.old = s.rollout = s.logp;
  const Packed p = pack(all, some_advantages(9), 0, 9, 3, 30);
  std::vector<double> vespo, reinforce;
  EXPECT_EQ(run(*make("{name: vespo}"), p, count(all), vespo),
            run(*make("{name: reinforce}"), p, count(all), reinforce));
  EXPECT_EQ(vespo, reinforce);
}

// The table of the paper's kernel, to its printed digits.
TEST(Vespo, KernelHasThePublishedValues) {
  const double w[] = {0.1, 0.5, 1, 2, 5, 10};
  const double positive[] = {.149, 1.12, 1, .199, 1.5e-4, 1.9e-10},
               negative[] = {.006, .340, 1, 1.08, .042, 1.5e-5};
  for (int i = 0; i < 6; ++i) {
    for (const double a : {1.0, -1.0}) {
      const Sequence s{
          .mask = {1}, .logp = {std::log(w[i]) - 3}, .old = {-3}, .rollout = {-3}, .reference = {-3}};
      const auto objective = make("{name: vespo}");
      std::vector<double> dlogp;
      run(*objective, pack({s}, {a}, 0, 1, 1, 1), count({s}), dlogp);
      const double phi = objective->take_records().at(0).phi, expected = a > 0 ? positive[i] : negative[i];
      EXPECT_NEAR(phi, expected, 0.04 * expected) << "W " << w[i] << ", A " << a;
      EXPECT_NEAR(dlogp[0], -a * phi, 1e-15);
    }
  }
}

TEST(Dpo, StartsAtLnTwoAndIpoAtItsClosedForm) {
  std::vector<Sequence> all = testing::random_sequences(6, 0.3, 4);
  for (Sequence& s : all) s.reference = s.logp;
  const Packed p = pack(all, some_advantages(6), 0, 6, 2, 20);
  std::vector<double> dlogp;
  for (const char* loss : {"sigmoid", "cdpo", "robust"}) {
    const auto objective = make(fmt::format("{{name: dpo, loss: {}}}", loss));
    EXPECT_NEAR(run(*objective, p, count(all), dlogp), std::log(2.0), 1e-15) << loss;
  }
  EXPECT_NEAR(run(*make("{name: dpo, loss: ipo, beta: 0.2}"), p, count(all), dlogp), 1 / (4 * 0.2 * 0.2),
              1e-12);
}

TEST(SequenceMetrics, MatchTheirDefinitions) {
  const std::vector<SequenceRecord> records = {
      {.tokens = 2, .advantage = 1, .log_w = 0, .log_ratio = 0, .log_tis = 0, .phi = 1},
      {.tokens = 4,
       .advantage = -1,
       .log_w = std::log(3),
       .log_ratio = std::log(3),
       .log_tis = 0,
       .phi = 0.5},
      {.tokens = 0, .advantage = 5, .log_w = 9, .log_ratio = 9, .log_tis = 9, .phi = 9}};
  std::map<std::string, double> m;
  for (const auto& [name, value] : policy_metrics(records)) m[name] = value;
  EXPECT_EQ(m.at("sequences"), 2);
  EXPECT_NEAR(m.at("w_mean"), 2, 1e-15);
  EXPECT_NEAR(m.at("w_std"), std::sqrt(2.0), 1e-15);
  EXPECT_NEAR(m.at("ess_fraction"), 16.0 / (2 * 10), 1e-15);
  EXPECT_NEAR(m.at("approx_kl"), -std::log(3) / 8, 1e-15);
  EXPECT_NEAR(m.at("phi_negative_mean"), 0.5, 1e-15);
  EXPECT_EQ(m.count("tis_mean"), 0u);
}

}  // namespace
}  // namespace cadre::optim
