#include "trainer/run/run_log.h"

#include <algorithm>
#include <memory>

#include "moe/dispatch.h"
#include "parallel/base/log.h"
#include "trainer/report/endpoint.h"
#include "trainer/report/event_file.h"
#include "trainer/run/environment.h"
#include "trainer/run/feed_plan.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;

// Every so many train lines one also has expert_load by layer, the first for a start; by the step, so that a run that
// was stopped writes what it would have written.
constexpr uint64_t kExpertLoadEvery = 10;

bool expert_load_due(uint64_t step, int64_t log_every) {
  const auto every = uint64_t(std::max<int64_t>(log_every, 1));
  return step < every || step % (kExpertLoadEvery * every) == every;
}

}  // namespace

RunLog::RunLog(const TrainState& state, ProgressStyle style)
    : state_(state), console_(style, state.config().log.every) {}

void RunLog::open(comm::Communicator& data, const std::string& commit) {
  std::string error;
  if (data.rank() == 0) {
    try {
      open_files(commit);
    } catch (const Error& e) {
      error = e.what();
    }
  }
  data.agree(error, ExitCode::kCheckpoint, "open the run folder");
}

void RunLog::open_files(const std::string& commit) {
  const fs::path out = state_.config().out;
  base::write_file_atomic(out / "config.resolved.yaml", resolved_yaml(state_.config()),
                          ExitCode::kCheckpoint);
  base::write_file_atomic(out / "environment.json", environment(state_, commit).dump(2) + "\n",
                          ExitCode::kCheckpoint);
  metrics_.emplace(out / "metrics.jsonl", state_.progress.step);
  add_watchers(out);
  if (state_.progress.step > 0) event("resume", fmt::format("from step {}", state_.progress.step));
  tell_of_muon();
  if (state_.progress.step == 0) tell_of_shuffle();
}

// Muon's step is a function of whole matrices, and Optimizer::precondition has none of it.
void RunLog::tell_of_muon() {
  const RunConfig& config = state_.config();
  if (!state_.probe || config.influence.direction == "gradient") return;
  if (kind(config, config.optim, "optim").text("name", "adamw") != "muon") return;
  const std::string message =
      "influence with optim muon: matrices have their plain gradient as direction, all else Adam's, on "
      "scales "
      "that do not compare; set influence.direction: gradient, or train with adamw where influence decides";
  event("influence", message);
  spdlog::warn("{}", message);
}

void RunLog::tell_of_shuffle() {
  const std::string message = shuffle_advice(state_.config(), *state_.dataset.train);
  if (message.empty()) return;
  event("shuffle", message);
  spdlog::info("{}", message);
}

void RunLog::add_watchers(const fs::path& out) {
  const LogConfig& log = state_.config().log;
  if (log.tensorboard)
    metrics_->add_sink(std::make_unique<report::EventFile>(out / "tensorboard", state_.progress.step + 1));
  if (log.prometheus > 0)
    metrics_->add_sink(std::make_unique<report::Endpoint>(log.prometheus_address, log.prometheus));
}

void RunLog::describe(int ranks) const {
  if (!metrics_) return;
  const ModelState& model = state_.model;
  spdlog::info(
      "{:.2f} M parameters, {:.2f} M active matmul parameters a token; {} ranks, expert degree {}, {} "
      "threads a rank",
      double(model.table.numel()) / 1e6, double(model.decoder.active_params()) / 1e6, ranks,
      state_.config().mesh.ep, model.host.num_threads());
  if (state_.config().moe && state_.config().mesh.ep > 1) {
    const bool widths = shares_widths(model);
    spdlog::info("each rank of {} holds {}", state_.config().mesh.ep,
                 widths ? "its part of the width of every expert" : "its share of the experts");
    const auto kind =
        moe::dispatch_kind(state_.config().moe->dispatch, widths, model.queue, model.mesh.expert_peers());
    spdlog::info("tokens reach their experts by {}{}: {}", moe::name_of(kind),
                 state_.config().moe->dispatch == kind ? "" : " (auto)", moe::about(kind));
  }
  if (const int ranks = state_.config().mesh.cp; ranks > 1)
    spdlog::info(
        "{} ranks share each sequence, {} tokens a rank; around attention they exchange tokens for heads",
        ranks, state_.config().data.seq_len / ranks);
  spdlog::info("memory of rank 0 in GiB: {}", model.plan.text());
}

void RunLog::step(const StepReport& report, double step_seconds, double left_s) {
  if (!metrics_) return;
  ++window_.steps;
  window_.seconds += step_seconds;
  window_.tokens += double(report.counts.real_tokens);
  window_.data_wait_ms += report.data_wait_ms;
  window_.comm_exposed_ms += report.comm_exposed_ms;
  console_.step(state_.progress, report, window_.tokens / window_.seconds, left_s);
  if (report.probe) metrics_->write(probe_line(state_, *report.probe));
  tell_spike(report);
  const int64_t every = state_.config().log.every;
  const bool due = every > 0 && state_.progress.step % uint64_t(every) == 0;
  if (due || state_.progress.step == state_.progress.total_steps) write_train_line(report);
}

void RunLog::tell_spike(const StepReport& report) {
  if (report.spike) {
    event("spike",
          fmt::format("loss {:.4f}, gradient norm {:.4f}: {:.1f} standard deviations above the steps before",
                      report.loss, report.grad_norm, report.spike_score));
  } else if (report.skipped) {
    event("skip", "loss or gradient not finite, no update");
  }
}

void RunLog::write_train_line(const StepReport& report) {
  const double steps = double(window_.steps), tokens_per_s = window_.tokens / window_.seconds;
  StepTimes times{.step_ms = 1e3 * window_.seconds / steps,
                  .tokens_per_s = tokens_per_s,
                  .data_wait_ms = window_.data_wait_ms / steps,
                  .comm_exposed_ms = window_.comm_exposed_ms / steps};
  if (peak_ > 0) times.mfu = state_.model.decoder.flops_per_token(report.piece_length) * tokens_per_s / peak_;
  metrics_->write(
      train_line(state_, report, times, expert_load_due(state_.progress.step, state_.config().log.every)));
  window_ = {};
}

void RunLog::evaluated(const std::vector<DomainScore>& scores) {
  if (!metrics_) return;
  metrics_->write(eval_line(state_.progress.step, scores));
  const bool bytes =
      std::any_of(scores.begin(), scores.end(), [](const DomainScore& s) { return s.bytes > 0; });
  std::string text =
      fmt::format("eval {}: {}", state_.progress.step, bytes ? "bits per byte" : "nats per token");
  for (const DomainScore& s : scores) {
    if (s.tokens > 0) text += fmt::format("  {} {:.3f}", s.domain, bytes ? s.bits_per_byte() : s.loss());
  }
  console_.line(text);
}

void RunLog::evaluated(const std::vector<RewardScore>& scores) {
  if (!metrics_) return;
  metrics_->write(reward_line(state_.progress.step, scores));
  std::string text = fmt::format("eval {}: reward", state_.progress.step);
  for (const RewardScore& s : scores) {
    if (s.prompts > 0) text += fmt::format("  {} {:.3f}", s.domain, s.reward);
  }
  console_.line(text);
}

void RunLog::event(const std::string& name, const std::string& message) {
  if (metrics_) metrics_->write(event_line(state_.progress.step, name, message));
}

void RunLog::rewind() {
  if (metrics_) metrics_->rewind(state_.progress.step);
}

}  // namespace cadre::trainer
