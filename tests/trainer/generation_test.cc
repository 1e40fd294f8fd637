// Generation with a key-value cache gives the logits of the full forward pass, however the tokens are fed.
#include <gtest/gtest.h>

#include "tests/trainer/model_fixture.h"

namespace cadre::trainer {
namespace {

// All log-probabilities (V) after tokens[0..length), by full forward passes with every target in turn.
std::vector<double> full_log_probs(TestModel<double>& m, const std::vector<int32_t>& tokens) {
  Batch b;
  b.num_sequences = 1;
  b.seq_len = int64_t(tokens.size());
  b.tokens = tokens;
  b.loss_mask.assign(tokens.size(), 0);
  b.loss_mask.back() = 1;
  b.segment.assign(tokens.size(), 0);
  for (size_t i = 0; i < tokens.size(); ++i) b.position.push_back(int32_t(i));
  std::vector<double> logp;
  for (int32_t v = 0; v < 23; ++v) {
    b.targets.assign(tokens.size(), v);
    logp.push_back(m.model->forward(b, false)[b.seq_len - 1]);
  }
  return logp;
}

void expect_same(device::View<const double, 1> logits, const std::vector<double>& logp) {
  ASSERT_EQ(logits.dim(0), int64_t(logp.size()));
  double sum = 0;
  for (double x : logits) sum += std::exp(x);
  for (size_t v = 0; v < logp.size(); ++v) EXPECT_NEAR(logits[v] - std::log(sum), logp[v], 1e-11);
}

TEST(Generation, LogitsEqualThoseOfTheFullForward) {
  for (const QkNorm qk_norm : {QkNorm::kNone, QkNorm::kHead, QkNorm::kFull}) {
    ModelConfig config = small_config();
    config.qk_norm = qk_norm;
    TestModel<double> m(config, std::nullopt, nullptr, {.max_sequences = 1, .seq_len = 60});
    const std::vector<int32_t> tokens = packed_batch(1, 60, 23).tokens;
    auto cache = m.model->make_cache(60);
    int64_t fed = 0;
    for (const int64_t piece : {7, 1, 1, 20, 1, 30}) {
      const std::vector<int32_t> next(tokens.begin() + fed, tokens.begin() + fed + piece);
      fed += piece;
      const auto logits = m.model->extend(*cache, next);
      const std::vector<double> kept(logits.begin(), logits.end());
      expect_same({kept.data(), {23}}, full_log_probs(m, {tokens.begin(), tokens.begin() + fed}));
    }
  }
}

TEST(Generation, PromptsLongerThanAMicroBatchGoInPieces) {
  const std::vector<int32_t> tokens = packed_batch(1, 60, 23).tokens;
  TestModel<double> small(small_config(), std::nullopt, nullptr, {.max_sequences = 1, .seq_len = 16});
  TestModel<double> large(small_config(), std::nullopt, nullptr, {.max_sequences = 1, .seq_len = 60});
  auto cache = small.model->make_cache(60);
  expect_same(small.model->extend(*cache, tokens), full_log_probs(large, tokens));
}

TEST(Generation, DynamicRotationDependsOnTheCacheInUseAlone) {
  ModelConfig config = small_config();
  config.rope.scaling = {.name = "dynamic", .factor = 2, .original_context = 8};
  TestModel<double> m(config, std::nullopt, nullptr, {.max_sequences = 1, .seq_len = 60});
  const std::vector<int32_t> tokens = packed_batch(1, 60, 23).tokens;
  const std::vector<double> before = full_log_probs(m, tokens);
  auto longer = m.model->make_cache(200), equal = m.model->make_cache(60);
  m.model->extend(*longer, tokens);
  const auto logits = m.model->extend(*equal, tokens);
  const std::vector<double> kept(logits.begin(), logits.end());
  expect_same({kept.data(), {23}}, before);
  EXPECT_EQ(full_log_probs(m, tokens), before);
}

TEST(Generation, AFullCacheIsAnError) {
  TestModel<double> m(small_config(), std::nullopt);
  auto cache = m.model->make_cache(5);
  m.model->extend(*cache, {1, 2, 3, 4});
  EXPECT_THROW(m.model->extend(*cache, {1, 2}), Error);
  EXPECT_NO_THROW(m.model->extend(*cache, {1}));
  EXPECT_THROW(m.model->extend(*cache, {}), Error);
}

}  // namespace
}  // namespace cadre::trainer
