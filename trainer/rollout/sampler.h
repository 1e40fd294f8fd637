// Sampling as a collective of all data ranks: prompts are dealt out by group, each rank runs its engine and judges what it
// sampled, and every rank gets everything.
#pragma once

#include "data/corpus.h"
#include "data/reward.h"
#include "data/tokenizer.h"
#include "parallel/comm/mesh.h"
#include "trainer/rollout/config.h"
#include "trainer/rollout/engine.h"

namespace cadre::trainer {

struct SamplerContext {
  Network<float>* model = nullptr;   // borrowed
  const comm::Mesh* mesh = nullptr;  // borrowed
  std::shared_ptr<const data::Tokenizer> tokenizer;
  std::shared_ptr<const data::Reward> reward;
  int64_t max_rows = 0, max_length = 0;  // of a pass; of prompt and response
  uint64_t seed = 1;
};

// What one sample() did, over all ranks.
struct SampleStats {
  int64_t fed_tokens = 0, new_tokens = 0;  // through the model; drawn
  int64_t passes = 0;                      // of the rank that had most
  double seconds = 0;                      // of the slowest rank, judging included
  double reward_seconds = 0;
  SampleStats& operator+=(const SampleStats& other);
};

class Sampler {
 public:
  Sampler(const SamplerContext& context, const RolloutConfig& config);

  // By (group, sample), the same on all ranks. `groups` too must be the same on all. Collective over data ranks.
  std::vector<Rollout> sample(std::vector<std::vector<Rollout>> groups, uint32_t version,
                              const device::SampleShape& shape, const data::Corpus& prompts);
  const SampleStats& stats() const { return stats_; }

 private:
  SamplerContext context_;
  Engine engine_;
  SampleStats stats_;
};

EngineConfig engine_config(const SamplerContext& context, const RolloutConfig& config);
// Sets the rewards of finished rollouts.
void judge_rollouts(std::vector<Rollout>& rollouts, const SamplerContext& context,
                    const data::Corpus& prompts);
// `samples` rollouts that wait for their first token.
std::vector<Rollout> make_group(const data::Corpus& prompts, int64_t document, uint64_t group,
                                int64_t samples);
// Throws Error(kData) naming a prompt that leaves no room for a response.
void require_room(const data::Corpus& prompts, int64_t max_length);

}  // namespace cadre::trainer
