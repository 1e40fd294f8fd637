#include "trainer/rollout/config.h"

#include <fmt/format.h>

#include <algorithm>

namespace cadre::trainer {

RolloutConfig read_rollout(base::Section s) {
  RolloutConfig c;
  c.group = s.integer("group", c.group, {.min = 1, .max = 1 << 16});
  c.mini_batches = s.integer("mini_batches", c.mini_batches, {.min = 1, .max = 1 << 16});
  c.max_new_tokens = s.integer("max_new_tokens", c.max_new_tokens, {.min = 1, .max = 1 << 20});
  c.shape.temperature = s.number("temperature", c.shape.temperature, {.min = 0, .max = 100});
  c.shape.top_k = s.integer("top_k", c.shape.top_k, {.min = 0});
  c.shape.top_p = s.number("top_p", c.shape.top_p, {.max = 1, .above = 0});
  c.stop = s.texts("stop", c.stop);
  for (const std::string& text : c.stop) {
    if (text.empty()) s.reject("stop", "an empty text would end every response at once");
  }
  c.sequences = s.integer("sequences", c.sequences, {.min = 1, .max = 1 << 20});
  c.page_size = s.integer("page_size", c.page_size, {.min = 1, .max = 1 << 12});
  c.cache_tokens = s.integer("cache_tokens", c.cache_tokens, {.min = 0});
  c.routing_replay = s.boolean("routing_replay", c.routing_replay);
  c.rounds = s.integer("rounds", c.rounds, {.min = 1, .max = 1000});
  c.overlong_buffer = s.integer("overlong_buffer", c.overlong_buffer, {.min = 0});
  c.overlong_penalty = s.number("overlong_penalty", c.overlong_penalty, {.min = 0});
  c.overlong_mask = s.boolean("overlong_mask", c.overlong_mask);
  c.samplers = s.integer("samplers", c.samplers, {.min = 0, .max = 1 << 20});
  c.staleness = s.integer("staleness", c.staleness, {.min = 0, .max = 1 << 16});
  c.sync_every = s.integer("sync_every", c.sync_every, {.min = 1, .max = 1 << 16});
  c.max_first_log_w = s.number("max_first_log_w", c.max_first_log_w, {.above = 0});
  s.finish();
  if (c.overlong_buffer > c.max_new_tokens)
    s.reject("overlong_buffer", fmt::format("found {}, expected at most max_new_tokens, {}",
                                            c.overlong_buffer, c.max_new_tokens));
  return c;
}

int64_t num_cache_pages(int64_t sequences, int64_t page_size, int64_t cache_tokens, int64_t max_length) {
  const int64_t whole = sequences * ((max_length + page_size - 1) / page_size);
  return cache_tokens > 0 ? std::min(whole, cache_tokens / page_size) : whole;
}

void require_trainable(const RolloutConfig& c, const base::Section& s) {
  if (c.group < 2)
    s.reject("group", "advantages are relative to the other samples of a prompt: a group needs at least 2");
  if (c.samplers > 0 && c.mini_batches > 1)
    s.reject("mini_batches",
             "asynchronous runs (samplers) make one batch at a time; raise `staleness` instead");
  if (c.samplers > 0 && c.rounds > 1)
    s.reject("rounds", "dynamic sampling needs all ranks to sample together; set samplers: 0");
  const device::SampleShape& shape = c.shape;
  if (shape.temperature != 1 || shape.top_k != 0 || shape.top_p != 1) {
    const char* key = shape.temperature != 1 ? "temperature" : shape.top_k != 0 ? "top_k" : "top_p";
    s.reject(key,
             "training compares log-probabilities of the whole distribution at temperature 1; another one "
             "can only be "
             "sampled (cadre rollout)");
  }
}

}  // namespace cadre::trainer
