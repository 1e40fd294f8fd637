// Held-out loss, the baselines beside it, sampling, and what metrics say about load.
#include <cmath>
#include <numbers>

#include "tests/trainer/run_fixture.h"
#include "trainer/run/baselines.h"
#include "trainer/run/generate.h"
#include "trainer/run/metrics.h"

namespace cadre::trainer {
namespace {

RunConfig model_config(const std::vector<std::string>& overrides) {
  RunConfig config = testing::tiny_run(overrides);
  set_vocab(config, testing::kVocab);
  return config;
}

TEST(Evaluate, PredictsEveryTokenButBosOnceWhateverTheLayout) {
  const auto corpus = testing::tiny_corpus(2, 30);
  const EvalSet set = choose_documents(*corpus, 100);
  int64_t tokens = 0, bytes = 0;
  for (int64_t d : set.documents) {
    if (corpus->document(d).domain != 1) continue;
    tokens += corpus->document(d).length - 1;
    bytes += corpus->document(d).bytes;
  }
  EXPECT_EQ(set.tokens[1], tokens);
  EXPECT_EQ(set.bytes[1], bytes);
  EXPECT_GE(tokens, 100);
  std::vector<DomainScore> expected;
  for (const auto& [ranks, ep, micro] : {std::tuple{1, 1, 1}, {1, 1, 8}, {2, 2, 3}, {4, 2, 2}}) {
    comm::run_threads(ranks, [&, ep = ep, micro = micro](comm::World& world) {
      ModelState model(model_config({fmt::format("mesh.ep={}", ep)}), world, micro, false);
      const auto scores = evaluate(model, *corpus, set, micro);
      if (world.rank() != 0) return;
      if (expected.empty()) expected = scores;
      for (size_t k = 0; k < scores.size(); ++k)
        EXPECT_NEAR(scores[k].nats, expected[k].nats, 1e-5 * expected[k].nats);
    });
  }
  EXPECT_NEAR(expected[1].loss(), std::log(testing::kVocab), 0.2) << "an untrained model guesses";
  EXPECT_NEAR(expected[1].bits_per_byte(), expected[1].nats / std::numbers::ln2 / double(bytes), 1e-12);
}

// Against forward passes over one document piece at a time, put together by hand.
TEST(Evaluate, LongDocumentsAreCutIntoPiecesThatShareOneToken) {
  std::vector<int32_t> tokens(41);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = int32_t(i * 7 % testing::kVocab);
  const auto corpus = data::make_memory_corpus({"a"}, {{0, tokens, 100}});
  comm::run_threads(1, [&](comm::World& world) {
    ModelState model(model_config({}), world, 2,
                     false);  // sequences of 16: pieces of 16, 16 and 8 predictions
    double nats = 0;
    for (size_t begin : {0, 16, 32}) {
      Batch batch;
      batch.num_sequences = 1;
      batch.seq_len = int64_t(std::min<size_t>(16, 40 - begin));
      for (int64_t i = 0; i < batch.seq_len; ++i) {
        batch.tokens.push_back(tokens[begin + size_t(i)]);
        batch.targets.push_back(tokens[begin + size_t(i) + 1]);
        batch.position.push_back(int32_t(i));
      }
      batch.loss_mask.assign(size_t(batch.seq_len), 1);
      batch.segment.assign(size_t(batch.seq_len), 0);
      batch.domain.assign(size_t(batch.seq_len), 0);
      batch.document.assign(size_t(batch.seq_len), 0);
      for (float logp : model.decoder.forward(batch, false)) nats -= double(logp);
    }
    EXPECT_NEAR(evaluate(model, *corpus, choose_documents(*corpus, 1), 2)[0].nats, nats, 1e-5 * nats);
  });
}

TEST(Baselines, ProbabilitiesSumToOneAndFollowTheCounts) {
  const auto corpus = testing::tiny_corpus(1, 60);
  const NgramBaselines baselines(*corpus, testing::kVocab);
  double unigram = 0;
  for (int32_t b = 0; b < testing::kVocab; ++b) unigram += std::exp(baselines.unigram_logp(b));
  EXPECT_NEAR(unigram, 1, 1e-12);
  for (int32_t a = 0; a < testing::kVocab; ++a) {
    double bigram = 0;
    for (int32_t b = 0; b < testing::kVocab; ++b) bigram += std::exp(baselines.bigram_logp(a, b));
    EXPECT_NEAR(bigram, 1, 1e-12) << "after " << a;
  }
  const EvalSet set = choose_documents(*corpus, 500);
  const auto one = baselines.unigram(*corpus, set), two = baselines.bigram(*corpus, set);
  for (size_t k = 0; k < one.size(); ++k)
    EXPECT_LT(two[k].nats, 0.9 * one[k].nats) << "the tokens follow a rule";
}

TEST(Baselines, BigramByHand) {
  // Targets: 2 3 2 3 1 -> pairs (0,2) (2,3)x2 (3,2) (3,1): three seen once, one twice, so d = 3 / 5.
  const auto corpus = data::make_memory_corpus({"a"}, {{0, {0, 2, 3, 2, 3, 1}, 6}});
  const NgramBaselines baselines(*corpus, 4);
  EXPECT_NEAR(std::exp(baselines.unigram_logp(3)), 3.0 / 9.0, 1e-12);
  EXPECT_NEAR(std::exp(baselines.bigram_logp(2, 3)), (2 - 0.6) / 2 + 0.6 * 1 / 2 * 3 / 9, 1e-12);
  EXPECT_NEAR(std::exp(baselines.bigram_logp(3, 0)), 0.6 * 2 / 2 * 1 / 9, 1e-12);
  EXPECT_EQ(baselines.bigram_logp(1, 2), baselines.unigram_logp(2)) << "1 was never followed";
}

TEST(Sample, ObeysTemperatureTopKAndTopP) {
  const std::vector<float> values = {std::log(0.1f), std::log(0.4f), std::log(0.3f), std::log(0.2f)};
  const device::View<const float, 1> logits(values.data(), {4});
  auto shares = [&](const SamplingConfig& config) {
    std::vector<double> share(4);
    for (uint64_t i = 0; i < 4000; ++i) share[size_t(sample(logits, config, i))] += 1.0 / 4000;
    return share;
  };
  EXPECT_EQ(sample(logits, {.temperature = 0}, 5), 1);
  const auto all = shares({});
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(all[i], std::exp(values[i]), 0.04);
  const auto two = shares({.top_k = 2});
  EXPECT_NEAR(two[1], 4.0 / 7, 0.04);
  EXPECT_EQ(two[0] + two[3], 0);
  const auto most = shares({.top_p = 0.65});
  EXPECT_EQ(most[0] + most[3], 0) << "0.4 + 0.3 reach 0.65";
  const auto hot = shares({.temperature = 2});
  EXPECT_GT(hot[0], all[0] + 0.02);
  EXPECT_EQ(shares({.seed = 3}), shares({.seed = 3}));
  EXPECT_NE(shares({.seed = 3}), shares({.seed = 4}));
}

TEST(Generate, StopsAtEosAndRefusesExpertChoice) {
  comm::run_threads(1, [&](comm::World& world) {
    ModelState model(model_config({}), world, 1, false);
    std::vector<int32_t> free, stopped;
    generate(model, {0, 5, 6}, 12, -1, {.temperature = 1}, [&](int32_t token) { free.push_back(token); });
    ASSERT_EQ(free.size(), 12u);
    generate(model, {0, 5, 6}, 12, free[4], {.temperature = 1},
             [&](int32_t token) { stopped.push_back(token); });
    const auto first = std::find(free.begin(), free.end(), free[4]);
    EXPECT_EQ(stopped, std::vector<int32_t>(free.begin(), first));
    ModelState other(model_config({"moe.router={name: expert_choice}", "moe.balance={name: none}"}), world, 1,
                     false);
    try {
      generate(other, {0}, 1, 1, {}, [](int32_t) {});
      ADD_FAILURE() << "expert choice is not causal";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
    }
  });
}

TEST(Metrics, LoadBalanceByHand) {
  const LoadBalance even = load_balance({{4, 4}, {2, 2}});
  EXPECT_EQ(even.max_over_mean, 1);
  EXPECT_EQ(even.cv, 0);
  const LoadBalance uneven = load_balance({{4, 4}, {8, 0}});
  EXPECT_EQ(uneven.max_over_mean, 2) << "of the worst layer";
  EXPECT_EQ(uneven.cv, 0.5) << "mean over layers";
}

}  // namespace
}  // namespace cadre::trainer
