// Metrics of post-training from what an objective saw of each sequence (docs/metrics.md). log W is in nats.
#pragma once

#include <span>

#include "optim/objective.h"

namespace cadre::optim {

// Of the sequences of one update, in order; those without a trained token are left out, and a mean over none is
// absent.
NamedValues policy_metrics(std::span<const SequenceRecord> records);
// Of pairs: chosen and rejected responses in turn.
NamedValues pair_metrics(std::span<const SequenceRecord> records);

}  // namespace cadre::optim
