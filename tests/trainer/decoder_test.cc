// The whole model's gradient against central differences, and the contract of forward and backward.
#include "trainer/model/decoder.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "tests/trainer/model_fixture.h"

namespace cadre::trainer {
namespace {

TEST(Decoder, GradientOfEveryRowEqualsCentralDifferences) {
  const Batch batch = packed_batch(2, 24, 23);
  for (const bool tied : {false, true}) {
    for (const QkNorm qk_norm : {QkNorm::kNone, QkNorm::kHead, QkNorm::kFull}) {
      for (const int kv_heads : {1, 4}) {
        ModelConfig config = small_config();
        config.tie_head = tied;
        config.qk_norm = qk_norm;
        config.kv_heads = kv_heads;
        TestModel<double> m(config, std::nullopt);
        check_gradients(m, batch,
                        fmt::format("tied {} qk_norm {} kv_heads {}", tied, qk_norm_name(qk_norm), kv_heads));
      }
    }
  }
}

TEST(Decoder, GradientIsRightWithoutDocumentMasks) {
  Batch batch = packed_batch(2, 24, 23);
  for (int64_t t = 0; t < batch.num_tokens(); ++t) batch.position[t] = int32_t(t % 24);
  TestModel<double> m(small_config(), std::nullopt, nullptr, {.mask_documents = false});
  check_gradients(m, batch, "no masks");
}

TEST(Decoder, ChunksOfLogitsGiveTheSameGradient) {
  const Batch batch = packed_batch(2, 24, 23);
  TestModel<double> whole(small_config(), std::nullopt);
  TestModel<double> chunks(small_config(), std::nullopt, nullptr, {.logits_bytes = 5 * 23 * 8});
  EXPECT_NEAR(whole.step(batch, true), chunks.step(batch, true), 1e-11);
  const std::vector<double> a = whole.grads(), b = chunks.grads();
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-11);
}

TEST(Decoder, FirstMicroBatchWritesOverOldGradients) {
  Batch padding = packed_batch(2, 24, 23);
  std::fill(padding.loss_mask.begin(), padding.loss_mask.end(), 0.0f);
  for (const Batch& batch : {packed_batch(2, 24, 23), padding}) {
    for (const int64_t logits_bytes : {1 << 20, 5 * 23 * 8}) {
      TestModel<double> fresh(small_config(), std::nullopt, nullptr, {.logits_bytes = logits_bytes});
      TestModel<double> used(small_config(), std::nullopt, nullptr, {.logits_bytes = logits_bytes});
      fresh.step(batch, true);
      used.step(packed_batch(2, 24, 23, 8), true);
      used.store->start_grads(used.queue);
      used.step(batch, true);
      EXPECT_EQ(used.grads(), fresh.grads()) << logits_bytes;
    }
  }
}

TEST(Decoder, GradientThatIsKnownBeforeTheForwardPassGivesTheSameBits) {
  const Batch batch = packed_batch(2, 24, 23);
  const std::vector<double> dlogp(size_t(batch.num_tokens()), -0.25);
  const device::View<const double, 1> view(dlogp.data(), {batch.num_tokens()});
  for (const int64_t logits_bytes : {1 << 20, 5 * 23 * 8}) {
    TestModel<double> before(small_config(), std::nullopt, nullptr, {.logits_bytes = logits_bytes});
    TestModel<double> after(small_config(), std::nullopt, nullptr, {.logits_bytes = logits_bytes});
    LogProbs<double> known, unknown;
    before.model->begin_step();
    before.model->start_forward(batch, true, known, view);
    before.model->backward(view, counts_of(batch), [](int) {});
    after.model->begin_step();
    after.model->start_forward(batch, true, unknown);
    after.model->backward(view, counts_of(batch), [](int) {});
    known.finish();
    unknown.finish();
    EXPECT_EQ(known.all, unknown.all);
    EXPECT_EQ(before.grads(), after.grads()) << logits_bytes;
  }
}

TEST(Decoder, FloatFollowsDouble) {
  const Batch batch = packed_batch(2, 24, 23);
  TestModel<double> exact(small_config(), std::nullopt);
  TestModel<float> model(small_config(), std::nullopt);
  for (int row = 0; row < int(exact.table.rows().size()); ++row) {
    for (int64_t i = 0; i < exact.layout->at(row).count; ++i) exact.value(row, i) = model.value(row, i);
  }
  const double loss = exact.step(batch, true);
  EXPECT_NEAR(model.step(batch, true), loss, 1e-5 * std::abs(loss));
  for (int row = 0; row < int(exact.table.rows().size()); ++row) {
    for (int64_t i = 0; i < exact.layout->at(row).count; ++i) {
      ASSERT_NEAR(model.grad(row, i), exact.grad(row, i), 2e-4 * (1 + std::abs(exact.grad(row, i))))
          << exact.table.row(row).name;
    }
  }
}

TEST(Decoder, RepeatedStepsGiveTheSameBits) {
  const Batch batch = packed_batch(2, 24, 23);
  TestModel<float> m(small_config(), std::nullopt), other(small_config(), std::nullopt);
  const double loss = m.step(batch, true);
  const std::vector<float> grads = m.grads();
  m.step(packed_batch(2, 24, 23, 8), true);  // leaves other activations behind
  m.store->zero_grads();
  EXPECT_EQ(m.step(batch, true), loss);
  EXPECT_EQ(m.grads(), grads);
  EXPECT_EQ(other.step(batch, true), loss);
  EXPECT_EQ(other.grads(), grads);
}

TEST(Decoder, GradientsAddUpOverMicroBatches) {
  const Batch first = packed_batch(2, 24, 23, 1), second = packed_batch(2, 24, 23, 2);
  TestModel<double> m(small_config(), std::nullopt);
  m.step(first, true);
  const std::vector<double> a = m.grads();
  m.store->zero_grads();
  m.step(second, true);
  const std::vector<double> b = m.grads();
  m.step(first, true);
  const std::vector<double> sum = m.grads();
  for (size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(sum[i], a[i] + b[i], 1e-12 * (1 + std::abs(sum[i])));
}

TEST(Decoder, ShorterBatchesUseTheSameMemory) {
  const Batch batch = packed_batch(1, 10, 23);
  TestModel<double> large(small_config(), std::nullopt, nullptr, {.max_sequences = 3, .seq_len = 40});
  TestModel<double> exact(small_config(), std::nullopt, nullptr, {.max_sequences = 1, .seq_len = 10});
  EXPECT_EQ(large.step(batch, true), exact.step(batch, true));
  EXPECT_EQ(large.grads(), exact.grads());
}

TEST(Decoder, PaddingOnlyMicroBatchGivesNothing) {
  Batch batch = packed_batch(2, 24, 23);
  std::fill(batch.segment.begin(), batch.segment.end(), -1);
  std::fill(batch.loss_mask.begin(), batch.loss_mask.end(), 0.0f);
  TestModel<float> m(small_config(), std::nullopt);
  EXPECT_EQ(m.step(batch, true), 0);
  for (float g : m.grads()) ASSERT_EQ(g, 0);
}

TEST(Decoder, EmptyMicroBatchGivesNothing) {
  TestModel<float> m(small_config(), std::nullopt);
  Batch batch;
  batch.seq_len = 24;
  EXPECT_EQ(m.step(batch, true), 0);
  for (float g : m.grads()) ASSERT_EQ(g, 0);
}

TEST(Decoder, BucketsCompleteFromLastToFirst) {
  for (const bool tied : {false, true}) {
    ModelConfig config = small_config();
    config.tie_head = tied;
    TestModel<float> m(config, std::nullopt);
    const Batch batch = packed_batch(2, 24, 23);
    m.model->forward(batch, true);
    const std::vector<float> dlogp(batch.loss_mask.begin(), batch.loss_mask.end());
    std::vector<int> order;
    std::map<int, std::vector<float>> at_call;
    const auto bucket_grads = [&](int bucket) {
      const device::FlatRange range = m.layout->bucket(device::Group::kDense, bucket);
      const float* flat = m.store->grads(device::Group::kDense).data();
      return std::vector<float>(flat + range.begin, flat + range.end);
    };
    m.model->backward({dlogp.data(), {batch.num_tokens()}}, counts_of(batch), [&](int bucket) {
      order.push_back(bucket);
      at_call[bucket] = bucket_grads(bucket);
    });
    EXPECT_EQ(order, (std::vector<int>{5, 4, 3, 2, 1, 0}));
    ASSERT_EQ(m.table.num_buckets(), 6);
    for (const auto& [bucket, grads] : at_call) EXPECT_EQ(grads, bucket_grads(bucket)) << "bucket " << bucket;
  }
}

// Adds up b^T a, which must be the gradient of every linear layer.
class OuterProducts : public device::Tap<double> {
 public:
  void on_linear(int param, device::View<const double, 2> a, device::View<const double, 2> b,
                 const int32_t* token, device::View<const int64_t, 1> group_offsets) override {
    EXPECT_TRUE(group_offsets.empty());
    std::vector<double>& sum = sums[param];
    sum.resize(a.dim(1) * b.dim(1));
    for (int64_t r = 0; r < a.dim(0); ++r) {
      for (int64_t o = 0; o < b.dim(1); ++o) {
        for (int64_t i = 0; i < a.dim(1); ++i) sum[o * a.dim(1) + i] += b[r][o] * a[r][i];
      }
      tokens[param].push_back(token == nullptr ? int32_t(r) : token[r]);
    }
  }
  std::map<int, std::vector<double>> sums;
  std::map<int, std::vector<int32_t>> tokens;
};

TEST(Decoder, TapSeesInputsAndGradientsOfEveryLinearLayer) {
  ModelConfig config = small_config();
  config.tie_head = false;
  TestModel<double> m(config, std::nullopt, nullptr, {.logits_bytes = 7 * 23 * 8});
  const Batch batch = packed_batch(2, 24, 23);
  m.model->forward(batch, true);
  const std::vector<double> dlogp(batch.loss_mask.begin(), batch.loss_mask.end());
  OuterProducts tap;
  m.model->backward(
      {dlogp.data(), {batch.num_tokens()}}, counts_of(batch), [](int) {}, &tap);
  for (int row = 0; row < int(m.table.rows().size()); ++row) {
    const device::ParamRow& r = m.table.row(row);
    if (r.shape.size() < 2 || r.bucket == 0) continue;
    ASSERT_EQ(tap.sums.count(row), 1u) << r.name;
    for (int64_t i = 0; i < r.numel(); ++i) ASSERT_NEAR(tap.sums[row][i], m.grad(row, i), 1e-11) << r.name;
  }
  std::vector<int32_t> live;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    if (batch.loss_mask[t] != 0) live.push_back(int32_t(t));
  }
  EXPECT_EQ(tap.tokens[m.table.find("head.weight")], live);
}

TEST(Decoder, CountsMatmulParametersOfOneToken) {
  for (const bool tied : {false, true}) {
    ModelConfig c = small_config();
    c.tie_head = tied;
    TestModel<float> m(c, std::nullopt);
    const int64_t attention = 12 * 16 + 2 * 12 * 8 + 16 * 12, ffn = 3 * 12 * 10, head = 23 * 12;
    EXPECT_EQ(m.model->active_params(), 2 * (attention + ffn) + head);
    EXPECT_EQ(m.model->flops_per_token(10), 6.0 * (2 * (attention + ffn) + head) + 6.0 * 2 * 10 * 16);
  }
}

TEST(Decoder, RefusesTokensOutsideOfTheVocabularyAndBatchesThatDoNotFit) {
  TestModel<float> m(small_config(), std::nullopt);
  Batch batch = packed_batch(2, 24, 23);
  batch.tokens[5] = 23;
  EXPECT_THROW(m.model->forward(batch, false), Error);
  EXPECT_THROW(m.model->forward(packed_batch(3, 24, 23), false), Error);
  batch = packed_batch(2, 24, 23);
  batch.position[5] = 24;
  EXPECT_THROW(m.model->forward(batch, false), Error);
}

}  // namespace
}  // namespace cadre::trainer
