// Packed documents: with masks a document cannot see its neighbours in the sequence, bit for bit.
#include <gtest/gtest.h>

#include "tests/trainer/model_fixture.h"

namespace cadre::trainer {
namespace {

std::vector<float> log_probs(TestModel<float>& m, const Batch& batch) {
  const auto logp = m.model->forward(batch, false);
  return {logp.begin(), logp.end()};
}

// Two documents in one sequence of 200: A is [0, 90), B is [90, 200).
Batch two_documents(bool restart) {
  Batch b = packed_batch(1, 200, 23);
  for (int64_t t = 0; t < 200; ++t) {
    b.segment[t] = t < 90 ? 0 : 1;
    b.position[t] = int32_t(restart && t >= 90 ? t - 90 : t);
    b.loss_mask[t] = 1;
  }
  return b;
}

TEST(Documents, ChangingOneLeavesTheOtherBitEqualOnlyWithMasks) {
  for (const bool masked : {true, false}) {
    TestModel<float> m(small_config(), std::nullopt, nullptr,
                       {.max_sequences = 1, .seq_len = 200, .mask_documents = masked});
    Batch batch = two_documents(masked);
    const std::vector<float> before = log_probs(m, batch);
    for (int64_t t = 0; t < 90; ++t) batch.tokens[t] = (batch.tokens[t] + 1) % 23;
    const std::vector<float> after = log_probs(m, batch);
    int changed = 0;
    for (int64_t t = 90; t < 200; ++t) changed += after[t] != before[t];
    EXPECT_NE(after[10], before[10]);
    if (masked) {
      EXPECT_EQ(changed, 0);
    } else {
      EXPECT_GT(changed, 100);
    }
  }
}

TEST(Documents, LaterTokensDoNotChangeEarlierOnes) {
  TestModel<float> m(small_config(), std::nullopt, nullptr,
                     {.max_sequences = 1, .seq_len = 200, .mask_documents = false});
  Batch batch = two_documents(false);
  const std::vector<float> before = log_probs(m, batch);
  batch.tokens[150] = (batch.tokens[150] + 1) % 23;
  const std::vector<float> after = log_probs(m, batch);
  for (int64_t t = 0; t < 150; ++t) ASSERT_EQ(after[t], before[t]) << t;
  EXPECT_NE(after[150], before[150]);
}

TEST(Documents, APackedDocumentIsReadAsIfItStoodAlone) {
  TestModel<double> m(small_config(), std::nullopt, nullptr, {.max_sequences = 1, .seq_len = 200});
  const Batch batch = two_documents(true);
  const auto packed_view = m.model->forward(batch, false);
  const std::vector<double> packed(packed_view.begin(), packed_view.end());
  Batch alone;
  alone.num_sequences = 1;
  alone.seq_len = 110;
  const auto part = [](const auto& from) { return std::vector(from.begin() + 90, from.end()); };
  alone.tokens = part(batch.tokens);
  alone.targets = part(batch.targets);
  alone.loss_mask = part(batch.loss_mask);
  alone.position = part(batch.position);
  alone.segment.assign(110, 0);
  const auto logp = m.model->forward(alone, false);
  for (int64_t t = 0; t < 110; ++t) ASSERT_NEAR(logp[t], packed[90 + t], 1e-12) << t;
}

TEST(Documents, MaskedTargetsGetNoLogProbability) {
  TestModel<float> m(small_config(), std::nullopt);
  const Batch batch = packed_batch(2, 24, 23);
  const std::vector<float> logp = log_probs(m, batch);
  for (int64_t t = 0; t < batch.num_tokens(); ++t) EXPECT_EQ(logp[t] == 0, batch.loss_mask[t] == 0) << t;
}

}  // namespace
}  // namespace cadre::trainer
