#include "trainer/run/loop.h"

#include <chrono>
#include <filesystem>
#include <optional>

#include "parallel/base/blackbox.h"
#include "parallel/base/log.h"
#include "parallel/comm/sub_world.h"
#include "parallel/device/accelerator.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_writer.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/pace.h"
#include "trainer/run/peak.h"
#include "trainer/run/profile.h"
#include "trainer/run/rollout_setup.h"
#include "trainer/run/run_log.h"
#include "trainer/run/stop.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;

class TrainLoop {
 public:
  TrainLoop(const RunConfig& config, const Dataset& dataset, comm::World& world, const TrainOptions& options,
            comm::Communicator* all)
      : state_(config, dataset, world, all),
        data_(state_.model.mesh.data()),
        log_(state_, data_.rank() == 0 ? options.progress : ProgressStyle::kNone),
        writer_(fs::path(config.out) / "checkpoints", state_),
        profile_(config.profile, config.out, data_.rank(), kernel_trace()) {
    resume();
    log_.open(data_, options.commit);
    if (dataset.valid) eval_set_ = choose_documents(*dataset.valid, config.eval.tokens_per_domain);
    if (options.measure_peak) log_.set_peak(peak_flops(state_.model));
    if (options.progress != ProgressStyle::kNone) log_.describe(data_.size());
  }

  ExitCode run() {
    pace_.start(state_.counters.train_seconds);
    base::at_step(state_.progress.step);
    // What sampling starts from is what its reward is measured against.
    if (state_.rollouts && state_.progress.step == 0 && state_.config().eval.every > 0) evaluate_now();
    // Due at the step at which the run was asked to stop.
    if (state_.progress.step > 0 && !ended() && due(state_.config().eval.every)) evaluate_now();
    while (!ended()) {
      profile_.before_step(state_.progress.step + 1);
      const StepReport report = timed_step();
      profile_.after_step(state_.progress.step);
      log_.step(report, step_seconds_, pace_.left(state_.progress));
      if (!report.moved_experts.empty())
        log_.event("rebalance", fmt::format("{}", fmt::join(report.moved_experts, "; ")));
      if (report.spike && state_.config().spikes.policy == SpikePolicy::kRollback) {
        roll_back(report);
        continue;
      }
      if (writer_.under_way() && !report.writers_busy) finish_save();
      for (const Pace::Note& note : pace_.fit(state_, report)) log_.event(note.event, note.message);
      if (report.stop) return stop();
      const bool end = ended();
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
  bool ended() const { return state_.progress.step >= state_.progress.total_steps || pace_.over(); }
  bool due(int64_t every) const { return every > 0 && state_.progress.step % uint64_t(every) == 0; }

  void resume() {
    const auto newest = newest_checkpoint(fs::path(state_.config().out) / "checkpoints", data_);
    if (!newest) return start_new_run();
    TensorReader reader(*newest);
    restore(state_, reader);
    writer_.set_last_saved(state_.progress.step);
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

  Profile::TraceKernels kernel_trace() const {
    const device::DeviceKind kind = state_.model.queue.kind();
    return kind == device::DeviceKind::kCpu ? nullptr : device::accelerator(kind).trace_kernels;
  }

  StepReport timed_step() {
    const auto start = std::chrono::steady_clock::now();
    const StepSignals signals = {
        .stop = stop_requested(), .writer_busy = writer_.busy(), .seconds = pace_.seconds()};
    const StepReport report = train_step(state_, signals);
    state_.counters.train_seconds = report.seconds;
    step_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    pace_.step_took(step_seconds_);
    return report;
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
    pace_.start(state_.counters.train_seconds);
    base::at_step(state_.progress.step);
    log_.rewind();
    log_.event("rollback", fmt::format("spike at step {}: back to step {} with the data that follows",
                                       spike_step, state_.progress.step));
    if (data_.rank() == 0)
      spdlog::warn("spike at step {}: back to step {}, with the data that follows", spike_step,
                   state_.progress.step);
  }

  void evaluate_now() {
    if (!state_.dataset.valid || state_.counters.evaluated == state_.progress.step) return;
    state_.counters.evaluated = state_.progress.step;
    base::enter(base::Phase::kEvaluate);
    if (state_.rollouts)
      return log_.evaluated(state_.rollouts->evaluate(*state_.dataset.valid, state_.progress));
    log_.evaluated(
        evaluate(state_.model, *state_.dataset.valid, eval_set_, state_.config().train.micro_batch));
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
      log_.event("checkpoint", fmt::format("step {} saved", result.step));
    } else {
      log_.event("checkpoint_failed", result.error);
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
    log_.event("stop", "asked to stop");
    save_and_wait();
    log_.line(fmt::format("stopped at step {} on request; the same command goes on from there",
                          state_.progress.step));
    return ExitCode::kStopped;
  }

  TrainState state_;
  comm::Communicator& data_;
  RunLog log_;
  CheckpointWriter writer_;
  Profile profile_;
  Pace pace_;
  EvalSet eval_set_;
  double step_seconds_ = 0;  // of the last step, this rank's
  int rollbacks_ = 0;        // of this process
};

}  // namespace

ExitCode train(const RunConfig& config, const Dataset& dataset, comm::World& world,
               const TrainOptions& options) {
  if (!config.rollout || config.rollout->samplers == 0)
    return TrainLoop(config, dataset, world, options, nullptr).run();
  const int trainers = num_trainers(config, world.size());
  const bool trains = world.rank() < trainers;
  const auto all = all_ranks(config, world);
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
