#include "trainer/run/loop.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "moe/dispatch.h"
#include "parallel/base/blackbox.h"
#include "parallel/base/log.h"
#include "parallel/comm/sub_world.h"
#include "parallel/device/accelerator.h"
#include "trainer/report/endpoint.h"
#include "trainer/report/event_file.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_writer.h"
#include "trainer/run/console.h"
#include "trainer/run/environment.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/metrics.h"
#include "trainer/run/peak.h"
#include "trainer/run/profile.h"
#include "trainer/run/rollout_setup.h"
#include "trainer/run/stop.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Every so many train lines one also has expert_load by layer.
constexpr int64_t kExpertLoadEvery = 10;

class TrainLoop {
 public:
  TrainLoop(const RunConfig& config, const Dataset& dataset, comm::World& world, const TrainOptions& options,
            comm::Communicator* all)
      : state_(config, dataset, world, all),
        data_(state_.model.mesh.data()),
        writer_(fs::path(config.out) / "checkpoints", state_),
        console_(data_.rank() == 0 ? options.progress : ProgressStyle::kNone, config.log.every),
        profile_(config.profile, config.out, data_.rank(), kernel_trace()) {
    resume();
    open_files(options);
    if (dataset.valid) eval_set_ = choose_documents(*dataset.valid, config.eval.tokens_per_domain);
    if (options.measure_peak) measure_peak();
    if (options.progress != ProgressStyle::kNone) describe_run();
  }

  ExitCode run() {
    start_ = Clock::now();
    base::at_step(state_.progress.step);
    // What sampling starts from is what its reward is measured against.
    if (state_.rollouts && state_.progress.step == 0 && state_.config().eval.every > 0) evaluate_now();
    while (state_.progress.step < state_.progress.total_steps && !out_of_time_) {
      profile_.before_step(state_.progress.step + 1);
      const StepReport report = timed_step();
      profile_.after_step(state_.progress.step);
      log_step(report);
      if (report.spike && state_.config().spikes.policy == SpikePolicy::kRollback) {
        roll_back(report);
        continue;
      }
      if (writer_.under_way() && !report.writers_busy) finish_save();
      fit_into_time(report);
      if (report.stop) return stop();
      const bool end = state_.progress.step >= state_.progress.total_steps || out_of_time_;
      if (!end && due(state_.config().eval.every)) evaluate_now();
      if (!end && due(state_.config().checkpoint.every)) save();
    }
    evaluate_now();
    save_and_wait();
    return ExitCode::kOk;
  }

  // Lets ranks that only sample go.
  void close() { state_.rollouts->close(); }

 private:
  bool due(int64_t every) const { return every > 0 && state_.progress.step % uint64_t(every) == 0; }

  void resume() {
    const auto newest = newest_checkpoint(fs::path(state_.config().out) / "checkpoints", data_);
    if (!newest) return start_new_run();
    TensorReader reader(*newest);
    restore(state_, reader);
    writer_.set_last_saved(state_.progress.step);
    seconds_before_ = last_seconds_ = state_.counters.train_seconds;
    if (data_.rank() == 0) spdlog::info("resumed from {} at step {}", newest->string(), state_.progress.step);
  }

  void start_new_run() {
    const std::string& init = state_.config().init;
    if (init.empty()) return;
    const fs::path folder = find_checkpoint(init, data_);
    TensorReader reader(folder);
    start_from(state_.model, reader, folder.string());
    if (data_.rank() != 0) return;
    spdlog::info("started from {}", folder.string());
    if (!same_tokenizer(reader.index(), folder, state_.dataset.tokenizer_file)) {
      spdlog::warn("{} was made with another tokenizer than the data: the same ids are other text",
                   folder.string());
    }
  }

  void open_files(const TrainOptions& options) {
    std::string error;
    if (data_.rank() == 0) {
      try {
        const fs::path out = state_.config().out;
        base::write_file_atomic(out / "config.resolved.yaml", resolved_yaml(state_.config()),
                                ExitCode::kCheckpoint);
        base::write_file_atomic(out / "environment.json", environment(state_, options.commit).dump(2) + "\n",
                                ExitCode::kCheckpoint);
        metrics_.emplace(out / "metrics.jsonl", state_.progress.step);
        add_watchers(out);
        if (state_.progress.step > 0) event("resume", fmt::format("from step {}", state_.progress.step));
      } catch (const Error& e) {
        error = e.what();
      }
    }
    data_.agree(error, ExitCode::kCheckpoint, "open the run folder");
  }

  // Rank 0, inside the agreement of open_files.
  void add_watchers(const fs::path& out) {
    const LogConfig& log = state_.config().log;
    if (log.tensorboard)
      metrics_->add_sink(std::make_unique<report::EventFile>(out / "tensorboard", state_.progress.step + 1));
    if (log.prometheus > 0)
      metrics_->add_sink(std::make_unique<report::Endpoint>(log.prometheus_address, log.prometheus));
  }

  Profile::TraceKernels kernel_trace() const {
    return on_gpu() ? device::accelerator(state_.model.queue.kind()).trace_kernels : nullptr;
  }

  bool on_gpu() const { return state_.model.queue.kind() != device::DeviceKind::kCpu; }

  void measure_peak() {
    if (on_gpu()) {
      peak_flops_ = device::accelerator(state_.model.queue.kind()).peak_flops;
      return;
    }
    data_.barrier(
        "SGEMM peak");  // ranks of one host share its caches and power, so they measure at the same time
    peak_flops_ =
        data_.all_reduce(sgemm_flops(1024, state_.model.host.num_threads(), 3), comm::ReduceOp::kSum, "peak");
  }

  void describe_run() {
    if (data_.rank() != 0) return;
    spdlog::info(
        "{:.2f} M parameters, {:.2f} M active matmul parameters a token; {} ranks, expert degree {}, {} "
        "threads a rank",
        double(state_.model.table.numel()) / 1e6, double(state_.model.decoder.active_params()) / 1e6,
        data_.size(), state_.config().mesh.ep, state_.model.host.num_threads());
    if (state_.config().moe && state_.config().mesh.ep > 1) {
      const auto kind = moe::dispatch_kind(state_.config().moe->dispatch, state_.model.queue.kind());
      spdlog::info(
          "tokens reach their experts by {}: {}", moe::name_of(kind),
          kind == moe::DispatchKind::kGather
              ? "every row goes to all ranks of the group, sized by the largest micro-batch; the host reads "
                "no counts"
              : "rows go where they were routed; counts travel ahead and the host reads them");
    }
    spdlog::info("memory of rank 0 in GiB: {}", state_.model.plan.text());
  }

  StepReport timed_step() {
    const Clock::time_point start = Clock::now();
    const StepSignals signals = {.stop = stop_requested(),
                                 .writer_busy = writer_.busy(),
                                 .seconds = seconds_before_ + seconds_since(start_)};
    const StepReport report = train_step(state_, signals);
    state_.counters.train_seconds = report.seconds;
    const double seconds = seconds_since(start);
    ++window_.steps;
    window_.seconds += seconds;
    window_.tokens += double(report.counts.real_tokens);
    window_.data_wait_ms += report.data_wait_ms;
    window_.comm_exposed_ms += report.comm_exposed_ms;
    // The first steps of a process are slower (cold caches, first touch of memory); forget them quickly.
    step_seconds_ = step_seconds_ == 0 ? seconds : 0.9 * step_seconds_ + 0.1 * seconds;
    return report;
  }

  void log_step(const StepReport& report) {
    if (data_.rank() != 0) return;
    const double tokens_per_s = window_.tokens / window_.seconds;
    console_.step(state_.progress, report, tokens_per_s, time_left());
    if (report.probe) metrics_->write(probe_line(state_, *report.probe));
    if (report.spike) {
      event(
          "spike",
          fmt::format("loss {:.4f}, gradient norm {:.4f}: {:.1f} standard deviations above the steps before",
                      report.loss, report.grad_norm, report.spike_score));
    } else if (report.skipped) {
      event("skip", "loss or gradient not finite, no update");
    }
    if (!due(state_.config().log.every) && state_.progress.step != state_.progress.total_steps) return;
    const double steps = double(window_.steps);
    StepTimes times{.step_ms = 1e3 * window_.seconds / steps,
                    .tokens_per_s = tokens_per_s,
                    .data_wait_ms = window_.data_wait_ms / steps,
                    .comm_exposed_ms = window_.comm_exposed_ms / steps};
    if (peak_flops_ > 0) {
      times.mfu = state_.model.decoder.flops_per_token(report.piece_length) * tokens_per_s / peak_flops_;
    }
    metrics_->write(train_line(state_, report, times, lines_++ % kExpertLoadEvery == 0));
    window_ = {};
  }

  // Weights, optimizer and step of the newest checkpoint, but the data goes on behind the batch of the spike.
  void roll_back(const StepReport& report) {
    if (writer_.under_way()) finish_save();
    const SpikeConfig& config = state_.config().spikes;
    require(rollbacks_ < config.max_rollbacks, ExitCode::kNumeric,
            "step {}: another spike after {} rollbacks, spikes.max_rollbacks is {}; lower optim.lr",
            state_.progress.step, rollbacks_, config.max_rollbacks);
    ++rollbacks_;
    const auto newest = newest_checkpoint(fs::path(state_.config().out) / "checkpoints", data_);
    require(newest.has_value(), ExitCode::kNumeric,
            "step {}: a spike ({:.1f} standard deviations) before the first checkpoint; lower optim.lr or "
            "checkpoint.every",
            state_.progress.step, report.spike_score);
    const nlohmann::json data = state_.feed.save();
    const std::string rollouts = state_.rollouts ? state_.rollouts->save() : "";
    const uint64_t spike_step = state_.progress.step;
    TensorReader reader(*newest);
    restore(state_, reader);
    state_.feed.load(data);
    if (state_.rollouts) state_.rollouts->load(rollouts);
    seconds_before_ = last_seconds_ = state_.counters.train_seconds;
    start_ = Clock::now();
    base::at_step(state_.progress.step);
    if (metrics_) metrics_->rewind(state_.progress.step);
    event("rollback", fmt::format("spike at step {}: back to step {} with the data that follows", spike_step,
                                  state_.progress.step));
    if (data_.rank() == 0)
      spdlog::warn("spike at step {}: back to step {}, with the data that follows", spike_step,
                   state_.progress.step);
  }

  double time_left() const {
    return step_seconds_ * double(state_.progress.total_steps - state_.progress.step);
  }

  // train.max_minutes: the average wall time of a step so far, evaluations and checkpoints included, says how
  // many steps fit. The number is settled when 60% of the time is over, before the decay of the usual
  // schedules begins; after that it is only cut, when the recent pace says that the schedule would not end in
  // time. All from rank 0's clock, so all ranks agree.
  void fit_into_time(const StepReport& report) {
    const double limit = state_.config().train.max_minutes * 60;
    if (limit <= 0) return;
    constexpr uint64_t kFirstEstimate = 10;
    constexpr double kMargin = 0.98, kSettled = 0.6, kWeight = 0.05;
    const uint64_t step = state_.progress.step;
    uint64_t& total = state_.progress.total_steps;
    const double last = report.seconds - last_seconds_;
    recent_seconds_ = recent_seconds_ == 0 ? last : (1 - kWeight) * recent_seconds_ + kWeight * last;
    last_seconds_ = report.seconds;
    const double left = std::max(0.0, kMargin * limit - report.seconds);
    if (state_.counters.total_fixed) {
      total = std::min(total, step + uint64_t(left / recent_seconds_));
    } else if (step >= kFirstEstimate) {
      total = std::min(uint64_t(state_.config().train.steps),
                       step + uint64_t(left * double(step) / report.seconds));
      state_.counters.total_fixed = report.seconds >= kSettled * limit;
      if (state_.counters.total_fixed) {
        event("total_steps",
              fmt::format("about {} steps fit into {} minutes", total, state_.config().train.max_minutes));
      }
    }
    total = std::max(total, step);
    if (report.seconds >= limit && step < total) {
      out_of_time_ = true;
      event("max_minutes", fmt::format("time is over at step {} of {}", step, total));
    }
  }

  void evaluate_now() {
    if (!state_.dataset.valid || last_eval_ == state_.progress.step) return;
    last_eval_ = state_.progress.step;
    base::enter(base::Phase::kEvaluate);
    if (state_.rollouts) return evaluate_rewards();
    const auto scores =
        evaluate(state_.model, *state_.dataset.valid, eval_set_, state_.config().train.micro_batch);
    if (data_.rank() != 0) return;
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

  void evaluate_rewards() {
    const auto scores = state_.rollouts->evaluate(*state_.dataset.valid, state_.progress);
    if (data_.rank() != 0) return;
    metrics_->write(reward_line(state_.progress.step, scores));
    std::string text = fmt::format("eval {}: reward", state_.progress.step);
    for (const RewardScore& s : scores) {
      if (s.prompts > 0) text += fmt::format("  {} {:.3f}", s.domain, s.reward);
    }
    console_.line(text);
  }

  // Begins a save; an older one that is still being written is waited for.
  void save() {
    if (writer_.under_way()) finish_save();
    if (writer_.last_saved() == state_.progress.step) return;
    base::enter(base::Phase::kCheckpoint);
    writer_.start();
    if (!state_.config().checkpoint.async) finish_save();
  }

  SaveResult finish_save() {
    const SaveResult result = writer_.finish();
    if (data_.rank() != 0) return result;
    if (result.error.empty()) {
      event("checkpoint", fmt::format("step {} saved", result.step));
    } else {
      event("checkpoint_failed", result.error);
      spdlog::warn("the checkpoint of step {} could not be written, older ones are as they were: {}",
                   result.step, result.error);
    }
    return result;
  }

  // At the end of a run a failed save is an error: the result would be lost.
  void save_and_wait() {
    if (writer_.under_way()) finish_save();
    if (writer_.last_saved() == state_.progress.step) return;
    base::enter(base::Phase::kCheckpoint);
    writer_.start();
    const SaveResult result = finish_save();
    require(result.error.empty(), ExitCode::kCheckpoint, "the last checkpoint could not be written: {}",
            result.error);
  }

  ExitCode stop() {
    event("stop", "asked to stop");
    save_and_wait();
    console_.line(fmt::format("stopped at step {} on request; the same command goes on from there",
                              state_.progress.step));
    return ExitCode::kStopped;
  }

  void event(const std::string& name, const std::string& message) {
    if (metrics_) metrics_->write(event_line(state_.progress.step, name, message));
  }

  struct Window {  // since the last line of metrics
    int64_t steps = 0;
    double seconds = 0, tokens = 0, data_wait_ms = 0, comm_exposed_ms = 0;
  };

  TrainState state_;
  comm::Communicator& data_;
  CheckpointWriter writer_;
  Console console_;
  Profile profile_;
  std::optional<MetricsFile> metrics_;  // rank 0
  EvalSet eval_set_;
  std::optional<uint64_t> last_eval_;
  Clock::time_point start_;
  Window window_;
  double seconds_before_ = 0;  // of earlier processes of this run
  double step_seconds_ = 0;    // moving average of train_step alone, this rank's
  double last_seconds_ = 0,
         recent_seconds_ = 0;  // for fit_into_time: the clock, and the moving average of its steps
  double peak_flops_ = 0;      // of all ranks
  int64_t lines_ = 0;
  int rollbacks_ = 0;  // of this process
  bool out_of_time_ = false;
};

}  // namespace

ExitCode train(const RunConfig& config, const Dataset& dataset, comm::World& world,
               const TrainOptions& options) {
  if (!config.rollout || config.rollout->samplers == 0)
    return TrainLoop(config, dataset, world, options, nullptr).run();
  const int trainers = num_trainers(config, world.size());
  const bool trains = world.rank() < trainers;
  const auto all = world.split(0, "rollouts");
  comm::SubWorld part(world, trains ? 0 : trainers, trains ? trainers : world.size() - trainers,
                      trains ? 0 : 1);
  if (!trains) {
    serve(config, dataset, part, *all);
    return ExitCode::kOk;
  }
  TrainLoop loop(config, dataset, part, options, all.get());
  const ExitCode code = loop.run();
  loop.close();
  return code;
}

}  // namespace cadre::trainer
