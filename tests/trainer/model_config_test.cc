#include "trainer/model/config.h"

#include <gtest/gtest.h>

#include "parallel/base/errors.h"

namespace cadre::trainer {
namespace {

ModelConfig read(const std::string& text) {
  return read_model(base::parse_run_text("model: {" + text + "}", "test.yaml", {}).section("model"));
}
std::string error_of(const std::string& text) {
  try {
    read(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUsage);
    return e.what();
  }
  return "no error";
}

TEST(ModelConfig, ReadsEveryKey) {
  const ModelConfig c = read(
      "vocab: 100, dim: 48, layers: 3, heads: 6, kv_heads: 3, head_dim: 10, ffn_width: 7, "
      "first_dense_layers: 2, "
      "moe_every: 3, qk_norm: true, tie_head: false, norm_eps: 1.0e-6, init_std: 0.01, rope: {theta: "
      "500000, scaling: {name: yarn, factor: 4, original_context: 32, beta_fast: 16, beta_slow: 2, "
      "attention_factor: 1.5, truncate: false}}");
  EXPECT_EQ(c.vocab, 100);
  EXPECT_EQ(c.dim, 48);
  EXPECT_EQ(c.layers, 3);
  EXPECT_EQ(c.heads, 6);
  EXPECT_EQ(c.kv_heads, 3);
  EXPECT_EQ(c.head_size(), 10);
  EXPECT_EQ(c.ffn_width, 7);
  EXPECT_EQ(c.first_dense_layers, 2);
  EXPECT_EQ(c.moe_every, 3);
  EXPECT_EQ(c.qk_norm, QkNorm::kHead);
  EXPECT_FALSE(c.tie_head);
  EXPECT_EQ(c.norm_eps, 1e-6);
  EXPECT_EQ(c.init_std, 0.01);
  EXPECT_EQ(c.rope.theta, 500000);
  EXPECT_EQ(c.rope.scaling.name, "yarn");
  EXPECT_EQ(c.rope.scaling.factor, 4);
  EXPECT_EQ(c.rope.scaling.original_context, 32);
  EXPECT_EQ(c.rope.scaling.beta_fast, 16);
  EXPECT_EQ(c.rope.scaling.beta_slow, 2);
  EXPECT_EQ(c.rope.scaling.attention_factor, 1.5);
  EXPECT_FALSE(c.rope.scaling.truncate);
}

TEST(ModelConfig, OldWordsForQkNormStillRead) {
  EXPECT_EQ(read("qk_norm: true").qk_norm, QkNorm::kHead);
  EXPECT_EQ(read("qk_norm: false").qk_norm, QkNorm::kNone);
  EXPECT_EQ(read("qk_norm: full").qk_norm, QkNorm::kFull);
  EXPECT_EQ(read("qk_norm: none").qk_norm, QkNorm::kNone);
}

TEST(ModelConfig, DefaultsFitTogether) {
  const ModelConfig c = read("dim: 64");
  EXPECT_EQ(c.head_size(), 16);
  EXPECT_FALSE(c.is_moe(0));
  EXPECT_TRUE(c.is_moe(1));
}

TEST(ModelConfig, NamesTheKeyThatDoesNotFit) {
  for (const auto& [text, expected] :
       {std::pair<std::string, std::string>{"heads: 4, kv_heads: 3", "model.kv_heads"},
        {"heads: 2, kv_heads: 4", "model.kv_heads"},
        {"dim: 50, heads: 4", "model.heads"},
        {"dim: 12, heads: 4", "even"},
        {"head_dim: 7", "model.head_dim"},
        {"dim: -4", "model.dim"},
        {"layers: many", "model.layers"},
        {"moe_every: 0", "model.moe_every"},
        {"qk_nrom: true", "qk_norm"},
        {"qk_norm: 2", "model.qk_norm"},
        {"rope: {thteta: 3}", "theta"},
        {"rope: {scaling: ntk}", "unknown rope scaling 'ntk'"},
        {"rope: {scaling: {name: linear}}", "factor"},
        {"rope: {scaling: {name: linear, factor: 0.5}}", "factor"},
        {"rope: {scaling: {name: linear, factor: 2, original_context: 8}}", "original_context"},
        {"rope: {scaling: {name: llama3, factor: 8}}", "original_context"},
        {"rope: {scaling: {name: llama3, factor: 8, original_context: 64, low_freq_factor: 4}}",
         "high_freq_factor"},
        {"head_dim: 2, rope: {scaling: {name: dynamic, factor: 2, original_context: 8}}", "dynamic"}}) {
    EXPECT_NE(error_of(text).find(expected), std::string::npos) << text << ": " << error_of(text);
  }
}

}  // namespace
}  // namespace cadre::trainer
