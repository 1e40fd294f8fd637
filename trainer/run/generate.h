// Text from a model, one token at a time.
#pragma once

#include <functional>

#include "trainer/run/train_state.h"

namespace cadre::trainer {

struct SamplingConfig {
  double temperature = 1.0;  // 0: always the likeliest token
  int64_t top_k = 0;         // only the k likeliest; 0: all
  double top_p = 1.0;        // only the smallest set of likeliest tokens with this much probability
  uint64_t seed = 1;
};
// One token from logits (V): a pure function of (logits, config, index). Ties go to the lower id.
int32_t sample(device::View<const float, 1> logits, const SamplingConfig& config, uint64_t index);

// Continues `prompt` (ids, bos first) by up to max_tokens, calling on_token for each, until eos. The keys and
// values of all tokens are kept. Throws Error(kUsage) for a model that is not causal.
void generate(ModelState& model, std::vector<int32_t> prompt, int64_t max_tokens, int32_t eos,
              const SamplingConfig& config, const std::function<void(int32_t)>& on_token);

}  // namespace cadre::trainer
