// The run file's `rollout` section.
#pragma once

#include <string>
#include <vector>

#include "parallel/base/config.h"
#include "parallel/device/kernels.h"

namespace cadre::trainer {

struct RolloutConfig {
  int64_t group = 8;         // samples of a prompt
  int64_t mini_batches = 1;  // N: updates, of train.global_batch samples each, between two rounds of sampling
  int64_t max_new_tokens = 64;
  device::SampleShape shape;      // temperature, top_k, top_p
  std::vector<std::string> stop;  // texts that end a response, beside eos
  int64_t sequences = 64;         // at once on a rank
  int64_t page_size = 16;         // tokens of a page of keys and values
  int64_t cache_tokens = 0;       // of all pages on a rank; 0: enough for `sequences` of data.seq_len
  bool routing_replay = false;    // the trainer uses the experts that sampling used
  // Dynamic sampling (DAPO): groups whose rewards are all equal are replaced, in at most this many rounds; 1: off.
  int64_t rounds = 1;
  // Overlong shaping (DAPO, eq. 13): the reward falls linearly by overlong_penalty over the last overlong_buffer tokens.
  int64_t overlong_buffer = 0;
  double overlong_penalty = 1;
  bool overlong_mask = false;  // responses that were cut off are not trained
  // Asynchronous training: the last `samplers` ranks only sample, at most `staleness` updates ahead, and get new weights
  // every sync_every updates. 0: all ranks sample, then all train.
  int64_t samplers = 0, staleness = 1, sync_every = 1;
  // Largest |log W| that the first update after sampling may show, when nothing but the engine can have caused it.
  double max_first_log_w = 1;
};
RolloutConfig read_rollout(base::Section section);
// Pages of keys and values on a rank, for sequences of at most max_length tokens.
int64_t num_cache_pages(int64_t sequences, int64_t page_size, int64_t cache_tokens, int64_t max_length);
// Throws Error(kUsage) for what can be sampled but not trained on: groups of one, and distributions that the trainer's
// log-probabilities are not of.
void require_trainable(const RolloutConfig& config, const base::Section& section);

}  // namespace cadre::trainer
