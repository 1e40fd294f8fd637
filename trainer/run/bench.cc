#include "trainer/run/bench.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "parallel/base/rng.h"
#include "parallel/device/accelerator.h"
#include "trainer/run/peak.h"
#include "trainer/run/step.h"

namespace cadre::trainer {
namespace {

constexpr int kWarmUpSteps = 2;
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

BenchResult bench_steps(const RunConfig& config, const Dataset& dataset, comm::World& world) {
  TrainState state(config, dataset, world);
  comm::Communicator& data = state.model.mesh.data();
  BenchResult result;
  result.ranks = data.size();
  const bool gpu = state.model.queue.kind() != device::DeviceKind::kCpu;
  result.threads = state.model.host.num_threads();
  describe_memory(state, result);
  result.params = state.model.table.numel();
  result.active_params = state.model.decoder.active_params();
  for (int64_t n : kPeakSizes) {
    if (gpu) break;
    for (int threads = 1; threads <= result.threads; ++threads) result.peaks.push_back({n, threads, 0});
  }
  for (int i = 0; i < kWarmUpSteps; ++i) train_step(state, {});
  const int64_t every = std::max<int64_t>(1, config.train.steps / kPeakRounds);
  state.model.queue.wait();
  auto start = std::chrono::steady_clock::now();
  for (int64_t step = 0; step < config.train.steps; ++step) {
    if (!gpu) {  // on a GPU a step's end runs beside the next one's beginning, as in training
      if (step % every == 0) sample_peaks(result.peaks, data);
      data.barrier("bench step");
      start = std::chrono::steady_clock::now();
    }
    const StepReport report = train_step(state, {});
    if (step + 1 == config.train.steps) state.model.queue.wait();
    const auto end = std::chrono::steady_clock::now();
    result.step_seconds.push_back(std::chrono::duration<double>(end - start).count());
    start = end;
    result.data_wait_ms += report.data_wait_ms / double(config.train.steps);
    result.tokens = report.counts.real_tokens;
    result.flops_per_token = state.model.decoder.flops_per_token(report.piece_length);
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
  return result;
}

}  // namespace cadre::trainer
