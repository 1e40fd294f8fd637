// The planner decides which tokens make up each global batch. It is a pure function of (seed, state): every
// rank computes the same plan without a broadcast, and changing the number of ranks keeps the order of the
// data.
//
// Counts of sequences by domain come from the largest-remainder rule with carried error, never from sampling:
// with q_k = B w_k + e_k, n_k = max(0, floor q_k), then +1 at the largest q_k - n_k (or -1 at the smallest
// with n_k > 0) until they sum to B, ties to the lower k; e_k <- q_k - n_k. Weights are rounded to units of
// 2^-32 and e is an int64 in the same units, so plans are bit-equal on any machine. Documents of a stream
// (domain, bucket), or their pieces, are visited in the order of Feistel permutations keyed by (seed, stream, epoch), so a
// stream's state is a few integers (planner/stream.h). A document of n tokens offers n - 1 positions, each once an epoch; one
// that is cut at the end of a sequence goes on in the next sequence of its stream (never a conversation that fits).
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/corpus.h"
#include "data/curriculum.h"
#include "parallel/base/batch.h"

namespace cadre::data {

// Inputs are tokens [begin, begin + count) of the document, targets the tokens one further on.
struct PlanSegment {
  int64_t document = 0;
  int64_t begin = 0;
  int64_t count = 0;
};
struct PlanSequence {
  int32_t domain = 0;
  std::vector<PlanSegment>
      segments;  // counts add up to seq_len, or less: unpacked, or a stream's last before its cap
};
struct BatchPlan {
  std::vector<PlanSequence>
      sequences;  // (global_batch), domains interleaved so that every rank and micro-batch is diverse
  std::vector<int64_t> domain_sequences;  // (K)
  std::vector<int64_t> domain_tokens;     // (K) trained tokens
};

struct PlannerConfig {
  uint64_t seed = 1;
  int64_t global_batch = 16;  // sequences
  int64_t seq_len = 256;
  bool pack = true;       // false: one document (piece) a sequence, padded
  bool whole = false;     // packed documents that fit into a sequence are not cut: the rest of one is padding
  bool pieces = false;    // what is shuffled are pieces of at most seq_len, not documents; not with `whole`
  double max_epochs = 0;  // cap for every domain; 0 is none
  int64_t total_tokens =
      0;  // planned for the run, to know a domain's progress for curricula; 0: over one epoch
};

class Planner {
 public:
  Planner(const PlannerConfig& config, const Corpus& corpus, const Curriculum& curriculum);
  ~Planner();
  // Advances the state. Throws Error(kData) when the caps leave too few tokens for a batch.
  BatchPlan next(const std::vector<double>& weights);
  nlohmann::json save() const;
  void load(const nlohmann::json& state);  // Error(kCheckpoint) when it does not fit the corpus or the config

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cadre::data
