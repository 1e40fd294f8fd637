// The sums that ranks exchange once a step, in one collective: losses, statistics by domain and by expert,
// signals.
#pragma once

#include "trainer/run/step.h"

namespace cadre::trainer {

class StepStats {
 public:
  explicit StepStats(int num_domains)
      : domain_loss_(size_t(num_domains)),
        domain_excess_(size_t(num_domains)),
        segment_squares_(0),
        segment_tokens_(0) {}
  // One micro-batch of this rank, with the log-probabilities of its targets.
  void add(const Batch& batch, device::View<const device::wide_t<Real>, 1> logp);
  // Sums over data ranks into the report. Collective.
  void reduce(TrainState& state, const StepSignals& signals, StepReport& report);
  // (K) after reduce(): sums of max(0, loss - reference loss) in nats; 0 without a reference.
  const std::vector<double>& domain_excess() const { return domain_excess_; }

 private:
  void add_pieces(const Batch& batch);
  std::vector<double> domain_loss_, domain_excess_;  // nats
  double segment_squares_, segment_tokens_;
};

}  // namespace cadre::trainer
