#include "trainer/run/step_stats.h"

#include <algorithm>
#include <limits>

namespace cadre::trainer {

// Ranks that share rows count them whole, each: both sums are as many times what they are, and their ratio is the same.
void StepStats::add_pieces(const Batch& batch) {
  const std::vector<int32_t>& segment = batch.row_segment.empty() ? batch.segment : batch.row_segment;
  const size_t length = segment.size() / size_t(std::max<int64_t>(1, batch.num_sequences));
  double run = 0;  // length of the document piece so far; a piece of n tokens adds n^2 = sum of (2 i - 1)
  for (size_t t = 0; t < segment.size(); ++t) {
    if (segment[t] < 0) continue;
    const bool same = t % length != 0 && segment[t] == segment[t - 1];
    run = same ? run + 1 : 1;
    segment_squares_ += 2 * run - 1;
    segment_tokens_ += 1;
  }
}

void StepStats::add(const Batch& batch, device::View<const device::wide_t<Real>, 1> logp) {
  add_pieces(batch);
  for (int64_t i = 0; i < batch.num_tokens(); ++i) {
    const size_t t = size_t(i);
    if (batch.segment[t] < 0) continue;
    if (batch.loss_mask[t] != 0)
      domain_loss_[size_t(batch.domain[t])] -= double(batch.loss_mask[t]) * double(logp[i]);
    if (batch.loss_mask[t] != 0 && !batch.logp_reference.empty())
      domain_excess_[size_t(batch.domain[t])] += std::max(0.0, batch.logp_reference[t] - double(logp[i]));
  }
}

void StepStats::reduce(TrainState& state, const StepSignals& signals, StepReport& report) {
  const auto layers = state.model.decoder.moe_stats();
  double aux = 0, z = 0, dropped = 0;
  for (const moe::MoeStats& layer : layers) {
    aux += layer.aux_loss;
    z += layer.z_loss;
    dropped += layer.dropped;
  }
  comm::Communicator& data = state.model.mesh.data();
  std::vector<double> sums = {aux,
                              z,
                              dropped,
                              segment_squares_,
                              segment_tokens_,
                              signals.stop ? 1.0 : 0.0,
                              signals.writer_busy ? 1.0 : 0.0,
                              data.rank() == 0 ? signals.seconds : 0.0};
  const size_t fixed = sums.size();
  sums.insert(sums.end(), domain_loss_.begin(), domain_loss_.end());
  sums.insert(sums.end(), domain_excess_.begin(), domain_excess_.end());
  for (const moe::MoeStats& layer : layers) {
    sums.insert(sums.end(), layer.expert_tokens.begin(), layer.expert_tokens.end());
  }
  data.all_reduce(std::span<double>(sums), comm::ReduceOp::kSum, "step statistics");
  report.aux_loss = sums[0];
  report.z_loss = sums[1];
  report.dropped_tokens = sums[2];
  report.piece_length = sums[4] > 0 ? sums[3] / sums[4] : 0;
  report.stop = sums[5] > 0;
  report.writers_busy = sums[6] > 0;
  report.seconds = sums[7];
  auto next = sums.begin() + int64_t(fixed);
  report.domain_loss.assign(next, next + int64_t(domain_loss_.size()));
  next += int64_t(domain_loss_.size());
  std::copy_n(next, domain_excess_.size(), domain_excess_.begin());
  next += int64_t(domain_excess_.size());
  for (const moe::MoeStats& layer : layers) {
    report.expert_tokens.emplace_back(next, next + int64_t(layer.expert_tokens.size()));
    next += int64_t(layer.expert_tokens.size());
  }
}

}  // namespace cadre::trainer
