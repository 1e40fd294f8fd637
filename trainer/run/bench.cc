#include "trainer/run/bench.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "parallel/base/files.h"
#include "parallel/base/rng.h"
#include "parallel/device/accelerator.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_writer.h"
#include "trainer/run/metrics.h"
#include "trainer/run/peak.h"
#include "trainer/run/step.h"
#include "trainer/run/tensor_reader.h"

namespace cadre::trainer {
namespace {

constexpr int kWarmUpSteps = 4, kWrittenSteps = 8;  // the passes of a dense model are recorded in the fourth
constexpr int64_t kPeakSizes[] = {1024, 2048};
constexpr int64_t kPeakRounds = 4;  // spread over the run

void sample_peaks(std::vector<PeakSample>& peaks, comm::Communicator& data) {
  data.barrier("bench peak");
  for (PeakSample& sample : peaks) {
    sample.best_flops = std::max(sample.best_flops, sgemm_flops(sample.n, sample.threads, 2));
  }
}

// Also of the ways to make activations again that the run does not take.
void describe_memory(TrainState& state, BenchResult& result) {
  result.plan = state.model.plan;
  RunConfig other = state.config();
  for (const Recompute kind : kRecomputes) {
    other.train.activation_recompute = kind;
    result.activations[int(kind)] =
        plan_memory(other, state.model.queue, state.model.mesh, other.train.micro_batch, true).activations;
  }
}

// A step without waiting for other ranks, or for the wire of imitated ones; what is trained then means nothing. The median.
double steps_alone(TrainState& state, int64_t steps, comm::ImitatedWire* wire) {
  state.reducer.finish_values();
  state.model.queue.wait();
  comm::Mesh& mesh = state.model.mesh;
  mesh.data().barrier("bench alone");
  const double rate = wire ? wire->bytes_per_s.exchange(0) : 0;
  if (!wire) mesh.set_tensor_imitation(true);
  std::vector<double> seconds;
  auto start = std::chrono::steady_clock::now();
  for (int64_t step = -1; step < steps; ++step) {
    const StepReport report = train_step(state, {});
    require(
        !report.skipped, ExitCode::kNumeric,
        "a step without communication had a loss of {} and a gradient norm of {}: without its update it is "
        "no measure; lower optim.lr",
        report.loss, report.grad_norm);
    if (step + 1 == steps) state.model.queue.wait();
    const auto end = std::chrono::steady_clock::now();
    if (step >= 0) seconds.push_back(std::chrono::duration<double>(end - start).count());
    start = end;
  }
  state.reducer.finish_values();
  state.model.queue.wait();
  wire ? wire->bytes_per_s.store(rate) : mesh.set_tensor_imitation(false);
  std::sort(seconds.begin(), seconds.end());
  return mesh.data().all_reduce(seconds[seconds.size() / 2], comm::ReduceOp::kMax, "bench alone");
}

}  // namespace

Dataset random_dataset(const RunConfig& config) {
  require(config.model.vocab > 1, ExitCode::kUsage,
          "{}: without data.manifest the benchmark makes random tokens and needs model.vocab", config.source);
  const int64_t count = 4 * config.train.global_batch;
  std::vector<data::MemoryDocument> documents;
  for (int64_t d = 0; d < count; ++d) {
    data::MemoryDocument document;
    for (int64_t i = 0; i <= config.data.seq_len; ++i) {
      const uint64_t bits = base::Philox(config.seed).bits(uint64_t(i), uint64_t(d));
      document.tokens.push_back(int32_t(bits % uint64_t(config.model.vocab)));
    }
    document.bytes = int64_t(document.tokens.size());
    documents.push_back(std::move(document));
  }
  Dataset set;
  set.train = data::make_memory_corpus({"random"}, std::move(documents));
  set.vocab = config.model.vocab;
  return set;
}

StepBench::StepBench(const RunConfig& config, const Dataset& dataset, comm::World& world,
                     const std::filesystem::path& batches)
    : state_(std::make_unique<TrainState>(config, dataset, world)) {
  if (!config.init.empty()) {
    const auto folder = find_checkpoint(config.init, state_->model.mesh.data());
    TensorReader reader(folder);
    start_from(state_->model, reader, folder.string());
  }
  std::string written;
  if (!batches.empty()) {
    require(world.size() == 1, ExitCode::kUsage, "batches are written by one rank, found {}", world.size());
    state_->on_batch = [&written](const data::LoadedBatch& batch) {
      for (const Batch& micro : batch.micro) {
        for (const std::vector<int32_t>* ids : {&micro.tokens, &micro.targets})
          written.append(reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(int32_t));
      }
    };
  }
  // Experts have moved once before anything is measured.
  const int warm_up = state_->rebalance.period() > 0 ? int(kFirstLook) + 1 : kWarmUpSteps;
  for (int i = 0; i < (batches.empty() ? warm_up : kWrittenSteps); ++i) train_step(*state_, {});
  state_->on_batch = nullptr;
  if (!batches.empty()) base::write_file_atomic(batches, written, ExitCode::kData);
  state_->model.queue.wait();
}
StepBench::~StepBench() = default;

SaveCost StepBench::measure_save(const std::filesystem::path& folder) {
  using Clock = std::chrono::steady_clock;
  TrainState& state = *state_;
  comm::Communicator& data = state.model.mesh.data();
  CheckpointWriter writer(folder, state);
  SaveCost cost;
  for (const bool timed : {false, true}) {
    train_step(state, {});
    state.model.queue.wait();
    data.barrier("bench save");
    const Clock::time_point start = Clock::now();
    writer.start();
    int64_t steps = 0;
    for (bool busy = true; busy; ++steps)
      busy = train_step(state, {.writer_busy = writer.busy()}).writers_busy;
    const SaveResult saved = writer.finish();
    require(saved.error.empty(), ExitCode::kCheckpoint, "{}", saved.error);
    state.model.queue.wait();
    if (!timed) continue;
    cost.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    cost.steps = steps;
    cost.step_seconds = cost.seconds / double(steps);
  }
  double bytes = 0;
  for (const Slice& slice : owned_slices(state))
    bytes += double(slice.count) * double(element_bytes(slice.dtype));
  cost.gib = data.all_reduce(bytes, comm::ReduceOp::kSum, "bench save") / 0x1p30;
  return cost;
}

BenchResult StepBench::run(int64_t steps, comm::ImitatedWire* wire) {
  using Clock = std::chrono::steady_clock;
  TrainState& state = *state_;
  comm::Communicator& data = state.model.mesh.data();
  BenchResult result;
  result.ranks = data.size();
  const bool gpu = state.model.queue.kind() != device::DeviceKind::kCpu;
  require(gpu || wire == nullptr, ExitCode::kUsage,
          "{}: only what goes between GPUs can be timed as over a wire", state.config().source);
  result.threads = state.model.host.num_threads();
  describe_memory(state, result);
  result.params = state.model.table.numel();
  result.active_params = state.model.decoder.active_params();
  for (int64_t n : kPeakSizes) {
    if (gpu) break;
    for (int threads = 1; threads <= result.threads; ++threads) result.peaks.push_back({n, threads, 0});
  }
  const int64_t every = std::max<int64_t>(1, steps / kPeakRounds);
  Clock::time_point start = Clock::now();
  for (int64_t step = 0; step < steps; ++step) {
    if (!gpu) {  // on a GPU a step's end runs beside the next one's beginning, as in training
      if (step % every == 0) sample_peaks(result.peaks, data);
      data.barrier("bench step");
      start = Clock::now();
    }
    const StepReport report = train_step(state, {});
    if (step + 1 == steps) state.model.queue.wait();
    const Clock::time_point end = Clock::now();
    result.step_seconds.push_back(std::chrono::duration<double>(end - start).count());
    result.mean_seconds += result.step_seconds.back() / double(steps);
    start = end;
    result.data_wait_ms += report.data_wait_ms / double(steps);
    result.rank_load += shares_widths(state.model)
                            ? 1.0 / double(steps)
                            : fullest_rank(report.expert_tokens, state.config().mesh.ep) / double(steps);
    result.moved_layers += int64_t(report.moved_experts.size());
    result.tokens = report.counts.real_tokens;
    result.flops_per_token = state.model.decoder.flops_per_token(report.piece_length);
    result.loss = report.loss;
  }
  std::sort(result.step_seconds.begin(), result.step_seconds.end());
  for (const PeakSample& sample : result.peaks)
    result.peak_flops = std::max(result.peak_flops, sample.best_flops);
  if (gpu) {
    const device::Accelerator& backend = device::accelerator(state.model.queue.kind());
    const device::DeviceMemory memory = backend.memory();
    result.peak_flops = backend.peak_flops;
    result.gpu_bytes = memory.total - memory.free;
  }
  result.peak_flops = data.all_reduce(result.peak_flops, comm::ReduceOp::kSum, "bench peak");
  result.imitated = data.imitation();
  if (wire) result.wire_bytes_per_s = wire->bytes_per_s;
  if (data.size() > 1 && (wire || !result.imitated)) result.alone_seconds = steps_alone(state, steps, wire);
  return result;
}

}  // namespace cadre::trainer
