// What a run that trains on sampled responses has beside the rest.
#pragma once

#include "trainer/run/train_state.h"

namespace cadre::trainer {

// Throws Error(kUsage) when the run file, its data and its objective do not fit: prompts without a `rollout` section, or a
// section with what cannot be trained on.
void check_rollout(const RunConfig& config, const data::Corpus& corpus, const optim::ObjectiveInputs& inputs);
// The source of its batches; the state's config has a `rollout` section. all: see TrainState.
std::unique_ptr<RolloutSource> make_rollouts(TrainState& state, comm::Communicator* all);

// The ranks of an asynchronous run: trainers, then samplers. Throws Error(kUsage) when they cannot be divided.
int num_trainers(const RunConfig& config, int ranks);
// All of them, waiting for one another as long as mesh.timeout_s allows. Collective over the world.
std::unique_ptr<comm::Communicator> all_ranks(const RunConfig& config, comm::World& world);
// What a rank does that only samples, until the run is over. `world` holds the samplers, `all` all ranks.
void serve(const RunConfig& config, const Dataset& dataset, comm::World& world, comm::Communicator& all);

}  // namespace cadre::trainer
