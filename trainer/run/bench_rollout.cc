#include "trainer/run/bench_rollout.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "parallel/base/rng.h"
#include "parallel/device/accelerator.h"
#include "trainer/rollout/engine.h"
#include "trainer/run/model_state.h"

namespace cadre::trainer {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The best of several copies of 128 MiB, which no cache holds.
double copy_bandwidth(device::Queue& queue) {
  constexpr int64_t kCount = int64_t(1) << 25;
  constexpr int kCopies = 5;
  const device::Buffer from(queue.kind(), kCount * sizeof(float)), to(queue.kind(), kCount * sizeof(float));
  const device::View<float, 1> x(reinterpret_cast<float*>(from.data()), {kCount}),
      y(reinterpret_cast<float*>(to.data()), {kCount});
  const auto& kernels = device::device_kernels<float>(queue.kind());
  kernels.fill(queue, x, 1);  // pages that were never written are not there to be read
  // A GPU makes one in some 60 microseconds, of which launch and wait would be a tenth or more.
  const int in_a_row = queue.kind() == device::DeviceKind::kCpu ? 1 : 16;
  double best = 0;
  for (int i = 0; i < kCopies; ++i) {
    queue.wait();
    const Clock::time_point start = Clock::now();
    for (int j = 0; j < in_a_row; ++j) kernels.copy(queue, x, y);
    queue.wait();
    best = std::max(best, 2.0 * double(kCount) * sizeof(float) * in_a_row / seconds_since(start));
  }
  return best;
}

std::vector<Rollout> prompt(const RunConfig& config, const RolloutBenchConfig& bench, uint64_t number) {
  Rollout r;
  r.group = number;
  r.prompt_length = bench.prompt_tokens;
  for (int64_t i = 0; i < bench.prompt_tokens; ++i) {
    const uint64_t bits = base::Philox(config.seed).bits(uint64_t(i), number);
    r.tokens.push_back(int32_t(bits % uint64_t(config.model.vocab)));
  }
  return {r};
}

// Keys and values of one token in all layers.
double cache_bytes(const ModelConfig& model, size_t element) {
  return 2.0 * model.layers * double(model.kv_heads * model.head_size()) * double(element);
}

// Rollouts of equal lengths as rows to train on.
Batch trained_rows(std::span<const Rollout> rollouts) {
  Batch b;
  b.num_sequences = int64_t(rollouts.size());
  b.seq_len = int64_t(rollouts.front().tokens.size()) - 1;
  for (const Rollout& r : rollouts) {
    b.tokens.insert(b.tokens.end(), r.tokens.begin(), r.tokens.end() - 1);
    b.targets.insert(b.targets.end(), r.tokens.begin() + 1, r.tokens.end());
    for (int64_t i = 0; i < b.seq_len; ++i) {
      b.loss_mask.push_back(i + 1 >= r.prompt_length);
      b.segment.push_back(0);
      b.position.push_back(int32_t(i));
    }
  }
  return b;
}

RolloutDrift drift_of(const std::vector<Rollout>& rollouts, Network<float>& model, int64_t at_once) {
  RolloutDrift drift{.responses = int64_t(rollouts.size())};
  double tokens = 0, sum = 0, squares = 0;
  for (size_t begin = 0; begin < rollouts.size(); begin += size_t(at_once)) {
    const size_t count = std::min(rollouts.size() - begin, size_t(at_once));
    const std::span<const Rollout> rows(rollouts.data() + begin, count);
    const Batch batch = trained_rows(rows);
    const auto logp = model.forward(batch, false);
    for (size_t i = 0; i < count; ++i) {
      const Rollout& r = rows[i];
      double log_w = 0;
      for (int64_t t = 0; t < r.response_length(); ++t, ++tokens) {
        const double trainer = logp[int64_t(i) * batch.seq_len + r.prompt_length - 1 + t];
        const double difference = trainer - double(r.logp[size_t(t)]);
        drift.mean += std::abs(difference);
        drift.largest = std::max(drift.largest, std::abs(difference));
        log_w += difference;
      }
      sum += log_w;
      squares += log_w * log_w;
    }
  }
  const double n = double(rollouts.size());
  drift.mean /= tokens;
  drift.log_w_std = std::sqrt(std::max(0.0, squares / n - sum / n * (sum / n)));
  return drift;
}

std::vector<KernelShare> shares(const std::vector<device::KernelSpan>& spans) {
  std::map<std::string, KernelShare> by_name;
  for (const device::KernelSpan& span : spans) {
    KernelShare& share = by_name[span.name];
    share.name = span.name;
    ++share.count;
    share.seconds += 1e-9 * double(span.end_ns - span.begin_ns);
  }
  std::vector<KernelShare> all;
  for (auto& [name, share] : by_name) all.push_back(share);
  std::stable_sort(all.begin(), all.end(),
                   [](const KernelShare& a, const KernelShare& b) { return a.seconds > b.seconds; });
  return all;
}

std::unique_ptr<device::KernelTrace> start_trace(device::DeviceKind kind) {
  device::TraceStart start = device::accelerator(kind).trace_kernels();
  require(start.trace != nullptr, ExitCode::kUsage, "--trace: {}", start.why_not);
  return std::move(start.trace);
}

}  // namespace

double weight_bytes(const device::ParamLayout& layout, const RunConfig& config, int64_t rows,
                    size_t element) {
  double bytes = 0;
  for (size_t row = 0; row < layout.table().rows().size(); ++row) {
    const device::ParamRow& r = layout.table().row(int(row));
    if (r.bucket == 0 && !config.model.tie_head) continue;
    const double count = double(layout.at(int(row)).count) * double(element);
    const bool experts = r.group == device::Group::kExpert && config.moe;
    const double chosen = experts ? double(config.moe->top_k) / config.moe->num_experts : 1;
    bytes += count * (1 - std::pow(1 - chosen, double(rows)));
  }
  return bytes;
}

RolloutBenchResult bench_rollout(const RunConfig& config, comm::World& world,
                                 const RolloutBenchConfig& bench) {
  const int64_t length = bench.prompt_tokens + bench.new_tokens;
  require(length <= config.data.seq_len, ExitCode::kUsage,
          "{}: data.seq_len is {}, prompts of {} tokens and {} new ones need {}", config.source,
          config.data.seq_len, bench.prompt_tokens, bench.new_tokens, length);
  require(config.model.vocab > 1, ExitCode::kUsage, "{}: random prompts need model.vocab", config.source);
  require(config.mesh.cp == 1, ExitCode::kUsage,
          "{}: mesh.cp is {}, and a rank samples whole sequences; set mesh.cp: 1", config.source,
          config.mesh.cp);
  ModelState model(config, world, config.train.micro_batch, false);
  require(!bench.trace || model.queue.kind() != device::DeviceKind::kCpu, ExitCode::kUsage,
          "--trace records the kernels of a GPU, and this run is on the CPU");
  const int64_t page = config.rollout ? config.rollout->page_size : 16;
  const EngineConfig sampling{.max_sequences = bench.prompts,
                              .page_size = page,
                              .max_length = length,
                              .max_new_tokens = bench.new_tokens,
                              .max_rows = config.train.micro_batch * config.data.seq_len,
                              .shape = {},
                              .seed = config.seed,
                              .eos = -1};
  auto engine = std::make_unique<Engine>(model.decoder, model.mesh.expert(), sampling);
  comm::Communicator& data = model.mesh.data();
  RolloutBenchResult result;
  result.ranks = data.size();
  result.bf16 = model.bf16();
  const size_t element = result.bf16 ? 2 : 4;
  result.bandwidth = copy_bandwidth(model.queue);
  std::vector<Rollout> rollouts;
  const auto sample_all = [&] {  // in how many seconds
    for (int64_t i = 0; i < bench.prompts; ++i)
      engine->add(prompt(config, bench, uint64_t(data.rank() * bench.prompts + i)));
    const int64_t passes = engine->passes();
    data.barrier("bench rollout");
    const Clock::time_point start = Clock::now();
    while (engine->step()) {
    }
    const double seconds = data.all_reduce(seconds_since(start), comm::ReduceOp::kMax, "bench rollout");
    result.passes = engine->passes() - passes;
    rollouts = engine->take_finished();
    return seconds;
  };
  sample_all();  // warms up
  for (int64_t repeat = 0; repeat < bench.repeats; ++repeat) result.seconds.push_back(sample_all());
  for (const Rollout& r : rollouts) result.new_tokens += r.response_length();
  if (bench.trace) {
    const auto trace = start_trace(model.queue.kind());
    engine.reset();  // its passes were recorded before the trace, which may not see into them
    engine = std::make_unique<Engine>(model.decoder, model.mesh.expert(), sampling);
    result.traced_seconds = sample_all();
    result.kernels = shares(trace->finish());
  }
  result.drift = drift_of(rollouts, model.decoder, config.train.micro_batch);
  result.new_tokens *= data.size();
  result.bytes = double(result.passes) * weight_bytes(model.layout, config, bench.prompts, element);
  // The k-th new token is drawn after a pass that reads all tokens before it.
  const double read =
      double(bench.new_tokens) * (double(bench.prompt_tokens) + double(bench.new_tokens - 1) / 2);
  result.bytes += double(bench.prompts) * read * cache_bytes(config.model, element);
  std::sort(result.seconds.begin(), result.seconds.end());
  return result;
}

}  // namespace cadre::trainer
