#include "trainer/run/bench_rollout.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "parallel/base/rng.h"
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
  ModelState model(config, world, config.train.micro_batch, false);
  const int64_t page = config.rollout ? config.rollout->page_size : 16;
  Engine engine(model.decoder, model.mesh.expert(),
                {.max_sequences = bench.prompts,
                 .page_size = page,
                 .max_length = length,
                 .max_new_tokens = bench.new_tokens,
                 .max_rows = config.train.micro_batch * config.data.seq_len,
                 .shape = {},
                 .seed = config.seed,
                 .eos = -1});
  comm::Communicator& data = model.mesh.data();
  RolloutBenchResult result{.seconds = {}, .ranks = data.size(), .bf16 = model.bf16()};
  const size_t element = result.bf16 ? 2 : 4;
  result.bandwidth = copy_bandwidth(model.queue);
  for (int64_t repeat = -1; repeat < bench.repeats; ++repeat) {  // the first warms up
    for (int64_t i = 0; i < bench.prompts; ++i)
      engine.add(prompt(config, bench, uint64_t(data.rank() * bench.prompts + i)));
    const int64_t passes = engine.passes();
    data.barrier("bench rollout");
    const Clock::time_point start = Clock::now();
    while (engine.step()) {
    }
    const double seconds = data.all_reduce(seconds_since(start), comm::ReduceOp::kMax, "bench rollout");
    if (repeat >= 0) result.seconds.push_back(seconds);
    result.passes = engine.passes() - passes;
    result.new_tokens = 0;
    for (const Rollout& r : engine.take_finished()) result.new_tokens += r.response_length();
  }
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
