// The plain structs that cross layers: a micro-batch of tokens, the global counts that losses divide by, how far
// the run is, and the per-domain statistics that mixers see. No behaviour lives here.
#pragma once

#include <cstdint>
#include <vector>

namespace cadre {

// One micro-batch of packed sequences, row-major (sequences, seq_len). Position i of a sequence predicts targets[i].
// A sequence holds pieces of documents, each a segment. Padding has segment -1, loss_mask 0 and is never routed.
struct Batch {
  int64_t num_sequences = 0;
  int64_t seq_len = 0;
  std::vector<int32_t> tokens;   // (N) input ids, N = num_sequences * seq_len
  std::vector<int32_t> targets;  // (N) next ids; any valid id where loss_mask is 0
  std::vector<float> loss_mask;  // (N) 1 where the target counts in the loss, else 0
  std::vector<int32_t> segment;  // (N) segment within the sequence, rising from 0; -1 for padding
  std::vector<int32_t>
      position;  // (N) rotary position; restarts at 0 in every segment unless document masks are off
  std::vector<int32_t> domain;    // (N) domain index
  std::vector<int64_t> document;  // (N) global document index in the manifest's order; -1 for padding
  // Where this is a part of each of a larger micro-batch's rows (mesh.cp): segments of the whole rows,
  // (num_sequences, length of a whole row). Empty otherwise.
  std::vector<int32_t> row_segment;
  // Post-training only, empty otherwise. Log-probabilities of the targets, anything where loss_mask is 0: by
  // the engine that sampled them, by the trainer before the first update on them, by the frozen reference.
  // Whole sequences stand in one row, each a segment; a pair is two segments in a row, the chosen one first.
  std::vector<double> logp_rollout, logp_old, logp_reference;  // (N)
  std::vector<double> advantage;                               // by segment, in order of appearance

  // Experts to use instead of the routers' choice, (N, MoE layers, K), kNoExpert for padding; empty: they choose.
  std::vector<uint8_t> routing;

  int64_t num_tokens() const { return num_sequences * seq_len; }
};
inline constexpr uint8_t kNoExpert = 255;

// Counts over the global batch (all ranks, all micro-batches). Every loss divides by these once, so that splitting a
// batch over micro-batches or ranks cannot change it.
struct BatchCounts {
  int64_t trained_tokens = 0;    // sum of loss_mask
  int64_t real_tokens = 0;       // tokens that are not padding: what routers and balance losses see
  int64_t sequences = 0;         // rows with at least one real token
  int64_t trained_segments = 0;  // segments with at least one trained token
  int64_t pairs = 0;             // preference pairs with at least one trained token
};

struct Progress {
  uint64_t step = 0;    // steps already taken
  uint64_t tokens = 0;  // trained tokens so far
  uint64_t total_steps = 0;
  uint64_t total_tokens = 0;  // planned for the whole run
  double lr = 0;
};

// Sums over the documents of one influence probe, by domain (K), for one target. A piece is all that the probe saw of a
// document: its score, the dot product of its share of the batches' gradients with the target's direction (> 0: training
// on it lowers the target's loss), and its trained tokens.
struct InfluenceSums {
  std::vector<double> pieces, tokens, tokens2, score, score2, score_tokens;  // (K) each
  std::vector<std::vector<double>*> columns() {
    return {&pieces, &tokens, &tokens2, &score, &score2, &score_tokens};
  }
};

// Sums over one global batch, by domain (K); what Mixer::observe gets. Later signals add columns here.
struct DomainStats {
  std::vector<double> loss_sum;               // (K) nats
  std::vector<double> tokens;                 // (K) trained tokens
  double grad_norm = 0;                       // of the whole batch, before clipping
  std::vector<InfluenceSums> influence = {};  // (M targets) at the end of an influence probe, else empty
  std::vector<double> valid_loss = {};        // (K) nats per token before this step's update, when asked for
  // (K) mean over sampled responses, NaN for a domain without any; empty in runs that do not sample.
  std::vector<double> reward = {};
};

}  // namespace cadre
