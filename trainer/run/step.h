// One training step, told once (docs/design.md, section 2). Nothing here says which device, router, objective
// or mixer is in use. Its result does not depend on how the global batch is split over micro-batches and
// ranks.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "optim/sequence_metrics.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {

// Small numbers that ranks exchange once a step, beside the statistics: see StepReport.
struct StepSignals {
  bool stop = false;         // this rank was asked to stop
  bool writer_busy = false;  // this rank's part of a checkpoint is still being written
  double seconds = 0;        // wall time of training so far; rank 0's counts, so that all ranks decide alike
};

// What happened, the same on every rank unless marked.
struct StepReport {
  double loss = 0, aux_loss = 0, z_loss = 0;
  double lr = 0, grad_norm = 0;
  bool skipped = false;                            // no update: loss or gradient was not finite, or a spike
  bool spike = false;                              // finite, but far from the steps before (spikes.h)
  double spike_score = 0;                          // standard deviations
  BatchCounts counts;                              // of the global batch
  std::vector<double> domain_loss, domain_tokens;  // (K) mean nats (NaN without tokens); trained tokens
  std::vector<double> domain_weight;               // (K) the mixer's, for this batch
  std::vector<std::vector<double>> expert_tokens;  // by MoE layer, (E)
  std::vector<LayerDomains> domain_experts;        // now and then: tokens by domain and expert
  std::vector<std::string> moved_experts;          // after the step, a line a layer
  double dropped_tokens = 0;                       // slots that capacity removed, over layers
  optim::NamedValues objective;                    // metrics of pairs or sampled sequences; else empty
  std::optional<ProbeReport> probe;                // in the last step of an influence probe
  nlohmann::json source;                           // what made the batch says of it; null: nothing
  double piece_length = 0;                         // mean length of the document piece that a token stands in
  bool stop = false, writers_busy = false;         // any rank's signal
  double seconds = 0;                              // rank 0's signal
  double data_wait_ms = 0, comm_exposed_ms = 0;    // this rank's
};

// Trains on the next global batch. Collective. Throws Error(kNumeric) after max_skips skipped steps in a row.
StepReport train_step(TrainState& state, const StepSignals& signals);

}  // namespace cadre::trainer
