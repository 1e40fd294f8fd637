// A sampled sequence as a row to train on.
#pragma once

#include "parallel/base/batch.h"
#include "trainer/rollout/rollout.h"

namespace cadre::trainer::testing {

inline Batch trained_row(const Rollout& r) {
  Batch b;
  b.num_sequences = 1;
  b.seq_len = int64_t(r.tokens.size()) - 1;
  b.tokens.assign(r.tokens.begin(), r.tokens.end() - 1);
  b.targets.assign(r.tokens.begin() + 1, r.tokens.end());
  for (int64_t i = 0; i < b.seq_len; ++i) {
    b.loss_mask.push_back(i + 1 >= r.prompt_length);
    b.segment.push_back(0);
    b.position.push_back(int32_t(i));
  }
  return b;
}

}  // namespace cadre::trainer::testing
