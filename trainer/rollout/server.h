// A rank that only samples, in asynchronous runs.
#pragma once

#include "trainer/rollout/link.h"
#include "trainer/rollout/sampler.h"

namespace cadre::trainer {

struct ServerContext {
  comm::Communicator* all = nullptr;  // trainers first, then samplers; borrowed
  int trainers = 0;
  SamplerContext sampler;
  ModelValues values;
  const data::Corpus* prompts = nullptr;  // borrowed
};

// Samples what the trainers ask for, with the weights that they send, until they say that the run is over. Sequences that
// are under way when new weights come go on with them: their tokens say which version drew them.
void serve_rollouts(const ServerContext& context, const RolloutConfig& config);

}  // namespace cadre::trainer
