#include "trainer/run/step.h"

#include <chrono>
#include <cmath>
#include <limits>

#include "optim/clipping.h"
#include "parallel/base/blackbox.h"
#include "parallel/base/log.h"
#include "trainer/run/step_stats.h"

namespace cadre::trainer {
namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// A skipped step still consumed its batch; too many in a row end the run.
void count_skip(TrainState& state, const StepReport& report) {
  ++state.counters.skipped_steps;
  ++state.counters.skips_in_row;
  spdlog::warn("step {}: loss {} or gradient norm {} is not finite; no update ({} in a row)",
               state.progress.step + 1, report.loss, report.grad_norm, state.counters.skips_in_row);
  require(state.counters.skips_in_row < state.config().train.max_skips, ExitCode::kNumeric,
          "step {}: {} steps in a row had a non-finite loss or gradient, train.max_skips is {}. Lower "
          "optim.lr or "
          "train.clip_norm, or resume from an earlier checkpoint",
          state.progress.step + 1, state.counters.skips_in_row, state.config().train.max_skips);
}

// Sums by domain become means in the report, after the mixer has seen the sums.
void observe(TrainState& state, StepReport& report) {
  if (!report.skipped) {
    state.mixer->observe(state.progress, {.loss_sum = report.domain_loss, .tokens = report.domain_tokens});
  }
  for (size_t k = 0; k < report.domain_loss.size(); ++k) {
    const double tokens = report.domain_tokens[k];
    report.domain_loss[k] =
        tokens > 0 ? report.domain_loss[k] / tokens : std::numeric_limits<double>::quiet_NaN();
  }
}

}  // namespace

StepReport train_step(TrainState& state, const StepSignals& signals) {
  Decoder<Real>& model = state.model.decoder;
  StepReport report;
  report.lr = state.peak_lr *
              state.schedule->factor(int64_t(state.progress.step), int64_t(state.progress.total_steps));
  state.progress.lr = report.lr;

  base::enter(base::Phase::kData);
  const data::LoadedBatch batch = state.feed.next(state.progress);
  report.data_wait_ms = state.feed.last_wait_ms();
  report.counts = batch.counts;
  report.domain_weight = batch.weights;
  report.domain_tokens.assign(batch.domain_tokens.begin(), batch.domain_tokens.end());

  StepStats stats(state.dataset.train->num_domains());
  double loss_share = 0;  // of this rank
  std::vector<device::wide_t<Real>> dlogp;
  std::vector<LogProbs<device::wide_t<Real>>> logp(batch.micro.size());
  // A gradient that needs no log-probability lets the device run on: the loss is read at the end of the step.
  const bool ahead = state.objective->constant_grad();
  state.model.store.start_grads(state.model.queue);
  model.begin_step();
  for (size_t i = 0; i < batch.micro.size(); ++i) {
    const Batch& micro = batch.micro[i];
    base::enter(base::Phase::kForward);
    model.start_forward(micro, true, logp[i]);
    if (!ahead) state.model.queue.wait();
    dlogp.resize(size_t(micro.num_tokens()));
    const device::View<device::wide_t<Real>, 1> gradient(dlogp.data(), {micro.num_tokens()});
    const double share = state.objective->loss_and_grad(logp[i].finish(), micro, batch.counts, gradient);
    if (!ahead) loss_share += share;
    // Buckets are reduced while the rest of the last backward pass runs; before that they are still being
    // summed.
    const bool last = i + 1 == batch.micro.size();
    base::enter(base::Phase::kBackward);
    model.backward(gradient, batch.counts, [&](int bucket) {
      if (last) state.reducer.add(bucket);
      state.reducer.progress();
    });
  }
  state.model.queue.wait();
  for (size_t i = 0; i < batch.micro.size(); ++i) {
    const auto values = logp[i].finish();
    dlogp.resize(size_t(values.size()));
    if (ahead)
      loss_share += state.objective->loss_and_grad(values, batch.micro[i], batch.counts,
                                                   {dlogp.data(), {values.size()}});
    stats.add(batch.micro[i], values);
  }
  base::enter(base::Phase::kReduce);
  const Clock::time_point wait_start = Clock::now();
  state.reducer.finish();
  report.comm_exposed_ms = ms_since(wait_start);

  const optim::GradNorm norm = optim::global_norm(state.optimizer_context, state.model.mesh.data(),
                                                  state.config().train.clip_norm, loss_share);
  stats.reduce(state, signals, loss_share, report);
  report.grad_norm = norm.norm;
  report.skipped = !norm.finite;
  if (report.skipped) {
    count_skip(state, report);
  } else {
    state.counters.skips_in_row = 0;
    base::enter(base::Phase::kUpdate);
    state.optimizer->step(report.lr, norm.scale);
    const Clock::time_point gather_start = Clock::now();
    state.reducer.all_gather_values();
    report.comm_exposed_ms += ms_since(gather_start);
    model.after_step(report.expert_tokens);
  }
  ++state.progress.step;
  base::at_step(state.progress.step);
  state.progress.tokens += uint64_t(batch.counts.trained_tokens);
  observe(state, report);
  return report;
}

}  // namespace cadre::trainer
