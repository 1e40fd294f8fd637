// What preference training has beside the model: a frozen copy, and metrics of pairs.
#pragma once

#include "optim/sequence_metrics.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {

// Writes the reference's log-probabilities of the targets into each micro-batch. Before the first step of a run the
// reference of an objective takes the model's values; a mixer's was loaded with its own. Checkpoints keep them.
// Collective over the expert group.
void score_reference(TrainState& state, std::vector<Batch>& micro);

// The objective's metrics over the global batch; empty for those that keep no records. Collective over data ranks.
optim::NamedValues objective_metrics(optim::Objective<Real>& objective, comm::Communicator& data);

}  // namespace cadre::trainer
