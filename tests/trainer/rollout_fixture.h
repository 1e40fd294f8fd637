// A small model on each rank of an expert group, and samples to be drawn from it.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tests/trainer/model_fixture.h"
#include "tests/trainer/rollout_requests.h"
#include "trainer/rollout/engine.h"

namespace cadre::trainer::testing {

constexpr int64_t kSmallVocab = 23, kEos = 1;

inline std::optional<moe::MoeConfig> small_moe() {
  moe::MoeConfig moe;
  moe.num_experts = 4;
  moe.top_k = 2;
  moe.width = 8;
  return moe;
}

inline EngineConfig small_engine() {
  return {.max_sequences = 12,
          .page_size = 4,
          .max_length = 40,
          .max_new_tokens = 18,
          .max_rows = 48,
          .shape = {},
          .seed = 3,
          .eos = kEos};
}

// Prompts of 1 to 13 tokens.
inline std::vector<std::vector<Rollout>> requests(int groups, int samples) {
  return requests(groups, samples, 13, kSmallVocab);
}

inline std::vector<Rollout> run(Engine& engine, std::vector<std::vector<Rollout>> groups) {
  for (auto& group : groups) engine.add(std::move(group));
  while (engine.step()) {
  }
  return sorted(engine.take_finished());
}

// Body with a model on each rank of one expert group.
template <class Body>
void with_model(int ranks, bool experts, QkNorm qk_norm, const Body& body, int64_t kv_heads = 2) {
  comm::run_threads(ranks, [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = ranks});
    ModelConfig config = small_config();
    config.qk_norm = qk_norm;
    config.kv_heads = kv_heads;
    TestModel<float> m(config, experts ? small_moe() : std::nullopt, &mesh,
                       {.max_sequences = 1, .seq_len = 48});
    body(m, mesh);
  });
}

inline void expect_same_tokens(const std::vector<Rollout>& got, const std::vector<Rollout>& expected,
                               const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].group, expected[i].group) << what;
    ASSERT_EQ(got[i].tokens, expected[i].tokens)
        << what << ", group " << got[i].group << " sample " << got[i].sample;
    EXPECT_EQ(got[i].finish, expected[i].finish) << what;
    ASSERT_EQ(got[i].logp.size(), expected[i].logp.size()) << what;
    ASSERT_EQ(got[i].version.size(), expected[i].version.size()) << what;
    for (size_t t = 0; t < got[i].logp.size(); ++t)
      ASSERT_NEAR(got[i].logp[t], expected[i].logp[t], 1e-4) << what;
  }
}

}  // namespace cadre::trainer::testing
