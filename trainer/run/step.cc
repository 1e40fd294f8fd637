#include "trainer/run/step.h"

#include <cmath>
#include <limits>

#include "optim/clipping.h"
#include "parallel/base/blackbox.h"
#include "parallel/base/log.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/influence_targets.h"
#include "trainer/run/reference.h"
#include "trainer/run/step_stats.h"

namespace cadre::trainer {
namespace {

// A skipped step still consumed its batch; too many in a row end the run.
void count_skip(TrainState& state, const StepReport& report) {
  ++state.counters.skipped_steps;
  ++state.counters.skips_in_row;
  spdlog::warn("step {}: loss {} or gradient norm {} is {}; no update ({} in a row)", state.progress.step + 1,
               report.loss, report.grad_norm, report.spike ? "a spike" : "not finite",
               state.counters.skips_in_row);
  require(
      state.counters.skips_in_row < state.config().train.max_skips, ExitCode::kNumeric,
      "step {}: {} steps in a row had a non-finite loss or gradient or a spike, train.max_skips is {}. Lower "
      "optim.lr or "
      "train.clip_norm, or resume from an earlier checkpoint",
      state.progress.step + 1, state.counters.skips_in_row, state.config().train.max_skips);
}

// By domain, of a batch of samples; see DomainStats.
std::vector<double> rewards(const TrainState& state, const StepReport& report) {
  if (!report.source.contains("reward")) return {};
  std::vector<double> all;
  for (int k = 0; k < state.dataset.train->num_domains(); ++k) {
    all.push_back(report.source.at("reward").value(state.dataset.train->domain_name(k),
                                                   std::numeric_limits<double>::quiet_NaN()));
  }
  return all;
}

// Sums by domain become means in the report, after the mixer has seen the sums: of the loss, or of what it is above a
// reference's where that is what the mixer needs.
void observe(TrainState& state, const std::vector<double>& valid_loss, const std::vector<double>& excess,
             StepReport& report) {
  if (!report.skipped) {
    const bool above = state.mixer->needs() == data::Needs::kReferenceLoss;
    DomainStats stats{.loss_sum = above ? excess : report.domain_loss, .tokens = report.domain_tokens};
    stats.grad_norm = report.grad_norm;
    if (report.probe) stats.influence = report.probe->sums;
    stats.valid_loss = valid_loss;
    stats.reward = rewards(state, report);
    state.mixer->observe(state.progress, stats);
  }
  for (size_t k = 0; k < report.domain_loss.size(); ++k) {
    const double tokens = report.domain_tokens[k];
    report.domain_loss[k] =
        tokens > 0 ? report.domain_loss[k] / tokens : std::numeric_limits<double>::quiet_NaN();
  }
}

// What a batch gives with the present weights: gradients, summed over ranks, are in the store. tap: of the influence
// probe, or null.
struct Computed {
  std::vector<LogProbs<device::wide_t<Real>>> logp;  // by micro-batch
  double loss_share = 0;                             // of this rank
  optim::GradNorm norm;
  double comm_exposed_ms = 0;
};
Computed compute(TrainState& state, const data::LoadedBatch& batch, device::AnyTap* tap) {
  using W = device::wide_t<Real>;
  Network<Real>& model = state.model.decoder;
  Computed result;
  result.logp.resize(batch.micro.size());
  std::vector<W> dlogp;
  // A gradient that needs no log-probability lets the device run on: the loss is read at the end of the step.
  const bool ahead = state.objective->constant_grad();
  const auto loss_and_grad = [&](size_t i, device::View<const W, 1> logp) {
    dlogp.resize(size_t(logp.size()));
    return state.objective->loss_and_grad(logp, batch.micro[i], batch.counts, {dlogp.data(), {logp.size()}});
  };
  state.objective->take_records();  // what a step that was computed twice left behind
  model.begin_step();
  for (size_t i = 0; i < batch.micro.size(); ++i) {
    const Batch& micro = batch.micro[i];
    base::enter(base::Phase::kForward);
    state.model.store.start_grads(state.model.queue, i == 0);
    if (ahead) {
      const std::vector<W> unknown(size_t(micro.num_tokens()), W(0));
      loss_and_grad(i, {unknown.data(), {micro.num_tokens()}});
      model.start_forward(micro, true, result.logp[i], {dlogp.data(), {micro.num_tokens()}});
    } else {
      model.start_forward(micro, true, result.logp[i]);
      state.model.queue.wait();
      result.loss_share += loss_and_grad(i, result.logp[i].finish());
    }
    // Buckets are reduced while the rest of the last backward pass runs; before that they are still being
    // summed, unless they are sharded.
    const bool last = i + 1 == batch.micro.size();
    base::enter(base::Phase::kBackward);
    const auto on_bucket_done = [&](int bucket) {
      state.model.store.collect_grads(state.model.queue, bucket, i == 0);
      state.reducer.add(bucket, {.first = i == 0, .last = last});
      state.reducer.progress();
    };
    model.backward({dlogp.data(), {micro.num_tokens()}}, batch.counts, on_bucket_done,
                   state.expert_domains.around(tap, micro));
    if (tap != nullptr) state.probe->add(micro);
  }
  base::enter(base::Phase::kReduce);
  // One wait for all that the host needs to know before the update.
  double squares = 0;
  state.start_norm(squares);
  result.comm_exposed_ms = state.reducer.take_waited_ms();
  model.fetch_stats();
  state.model.queue.wait();
  for (size_t i = 0; ahead && i < batch.micro.size(); ++i)
    result.loss_share += loss_and_grad(i, result.logp[i].finish());
  result.norm =
      optim::finish_norm(squares, state.model.mesh.data(), state.config().train.clip_norm, result.loss_share);
  return result;
}

// The same batch with the same weights gives the same bits, or something is broken. Collective; throws on all ranks.
void compute_again(TrainState& state, const data::LoadedBatch& batch, const Computed& first) {
  const Computed again = compute(state, batch, nullptr);
  std::string error;
  if (again.loss_share != first.loss_share) {
    error = fmt::format(
        "step {} computed twice gave a loss of {} and then {}: this host's hardware is broken, take it out",
        state.progress.step + 1, first.loss_share, again.loss_share);
  } else if (again.norm.norm != first.norm.norm) {
    error = fmt::format(
        "step {} computed twice gave a gradient norm of {} and then {} from equal losses: the hardware of "
        "some host is broken",
        state.progress.step + 1, first.norm.norm, again.norm.norm);
  }
  state.model.mesh.data().agree(error, ExitCode::kNumeric, "shadow step");
}

// Decides about a step that stands out; the same on every rank.
void judge(TrainState& state, const data::LoadedBatch& batch, const Computed& computed, StepReport& report) {
  if (report.skipped) return;
  report.spike_score = state.spikes.score(report.loss, report.grad_norm);
  report.spike = state.spikes.suspicious(report.loss, report.grad_norm);
  if (!report.spike) return state.spikes.accept(report.loss, report.grad_norm);
  const SpikeConfig& config = state.config().spikes;
  if (config.shadow) compute_again(state, batch, computed);
  require(config.policy != SpikePolicy::kStop, ExitCode::kNumeric,
          "step {}: loss {} and gradient norm {} are {:.1f} standard deviations above the steps before, "
          "spikes.policy is stop",
          state.progress.step + 1, report.loss, report.grad_norm, report.spike_score);
  report.skipped = true;
}

// Held-out loss by domain for a mixer that learns from trial mixes; empty when it does not ask.
std::vector<double> probe_evaluation(TrainState& state) {
  if (state.mixer->needs() != data::Needs::kProbeEvaluation || !state.mixer->probe_due(state.progress))
    return {};
  const data::Corpus& valid = *state.dataset.valid;
  const EvalSet set = held_out_targets(state.config(), valid);
  std::vector<double> loss;
  for (const DomainScore& s : evaluate(state.model, valid, set, state.config().train.micro_batch)) {
    loss.push_back(s.loss());
  }
  return loss;
}

bool probe_due(const TrainState& state) {
  const int64_t period = state.config().influence.period;
  const bool asked =
      state.mixer->needs() == data::Needs::kInfluence && state.mixer->probe_due(state.progress);
  return asked || (period > 0 && state.progress.step > 0 && state.progress.step % uint64_t(period) == 0);
}

// With the first line of metrics and every tenth from there, as expert_load.
bool domain_experts_due(const TrainState& state) {
  const auto every = uint64_t(state.config().log.every);
  return (state.progress.step + 1) % (10 * every) == every;
}

}  // namespace

StepReport train_step(TrainState& state, const StepSignals& signals) {
  Network<Real>& model = state.model.decoder;
  StepReport report;
  report.lr = state.peak_lr *
              state.schedule->factor(int64_t(state.progress.step), int64_t(state.progress.total_steps));
  state.progress.lr = report.lr;

  base::enter(base::Phase::kData);
  data::LoadedBatch batch = state.next_batch();
  report.data_wait_ms = state.feed.last_wait_ms();
  if (state.online) state.online->apply(state.config().train.global_batch, batch);
  if (state.on_batch) state.on_batch(batch);
  report.counts = batch.counts;
  report.source = batch.metrics;
  report.domain_weight = batch.weights;
  report.domain_tokens.assign(batch.domain_tokens.begin(), batch.domain_tokens.end());

  if (state.reference) score_reference(state, batch.micro);
  const std::vector<double> valid_loss = probe_evaluation(state);
  if (state.probe && state.before_update) state.before_update();  // it averages gradients of targets
  if (state.probe) state.probe->begin_step(probe_due(state));
  state.expert_domains.begin_step(domain_experts_due(state));
  Computed computed = compute(state, batch, state.probe ? state.probe->tap() : nullptr);
  report.domain_experts = state.expert_domains.finish();
  report.comm_exposed_ms = computed.comm_exposed_ms;
  const optim::GradNorm& norm = computed.norm;
  report.loss = norm.loss;
  if (state.rollouts) {  // before the weights change: whether they may
    report.objective = objective_metrics(*state.objective, state.model.mesh.data());
    state.check(report.objective);
  }
  report.grad_norm = norm.norm;
  report.skipped = !norm.finite;
  judge(state, batch, computed, report);
  if (state.probe) report.probe = state.probe->end_step(batch.counts, report.skipped);
  if (report.skipped) {
    count_skip(state, report);
  } else {
    state.counters.skips_in_row = 0;
    base::enter(base::Phase::kUpdate);
    if (state.before_update) state.before_update();
    // Buckets travel while others are updated, and the next forward pass waits for each when it reads it.
    state.optimizer->step(report.lr, norm.scale, [&](int bucket) { state.reducer.gather_values(bucket); });
  }
  // What only reports need is added up beside the update of a GPU.
  StepStats stats(state.dataset.train->num_domains());
  for (size_t i = 0; i < batch.micro.size(); ++i) stats.add(batch.micro[i], computed.logp[i].finish());
  stats.reduce(state, signals, report);
  if (!state.rollouts) report.objective = objective_metrics(*state.objective, state.model.mesh.data());
  if (!report.skipped) model.after_step(report.expert_tokens);
  ++state.progress.step;
  base::at_step(state.progress.step);
  state.progress.tokens += uint64_t(batch.counts.trained_tokens);
  if (!report.skipped) report.moved_experts = state.rebalance.after_step(state, report.expert_tokens);
  observe(state, valid_loss, stats.domain_excess(), report);
  return report;
}

}  // namespace cadre::trainer
