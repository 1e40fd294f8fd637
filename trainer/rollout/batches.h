// Sampled sequences as micro-batches. Like the loader's, a batch does not depend on ranks or micro-batches but for who
// holds which row.
#pragma once

#include <span>

#include "data/loader.h"
#include "trainer/rollout/rollout.h"

namespace cadre::trainer {

struct RolloutBatchShape {
  int64_t seq_len = 0, micro_batch = 1;
  bool pack = false;  // several sequences in a row, each a segment of its own
  bool routing = false;
  int data_rank = 0, data_ranks = 1;
  int num_domains = 1;
};

// Throws Error(kData) for a sequence that is longer than a row.
data::LoadedBatch make_rollout_batch(std::span<const Rollout> rollouts, const RolloutBatchShape& shape);

// Where this rank's rows of that batch hold rollouts: body(micro, position of the first target, rollout's index). The
// first target is the response's first token.
void for_each_response(std::span<const Rollout> rollouts, const RolloutBatchShape& shape,
                       const std::function<void(size_t, int64_t, size_t)>& body);

}  // namespace cadre::trainer
