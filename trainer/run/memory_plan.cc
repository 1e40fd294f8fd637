#include "trainer/run/memory_plan.h"

#include <vector>

#include "optim/objective.h"
#include "optim/optimizer.h"
#include "parallel/comm/peer_memory.h"
#include "parallel/comm/shards.h"
#include "parallel/device/accelerator.h"
#include "trainer/model/decoder.h"
#include "trainer/model/head_exchange.h"

namespace cadre::trainer {
namespace {

using device::DeviceKind;

// Logits of a chunk: on the CPU as much as its caches like, on a GPU so much that a micro-batch's logits usually stay
// for the backward pass.
constexpr int64_t kCpuLogits = int64_t(256) << 20, kCudaLogits = int64_t(4) << 30;

template <class T>
size_t optimizer_bytes(const RunConfig& config, comm::Mesh& mesh, device::ParamStore<T>& store) {
  optim::OptimizerContext<T> context;
  const comm::Communicator* groups[] = {&mesh.data(), &mesh.replicas()};
  for (int g = 0; g < device::kNumGroups; ++g) {
    const comm::ShardPlan plan(store.layout(), device::Group(g), groups[g]->size(), config.mesh.zero);
    context.pieces[g] = plan.pieces(groups[g]->rank());
    context.state_size[g] = plan.state_size(groups[g]->rank());
  }
  context.store = &store;
  context.planned = true;
  return optim::make_optimizer<T>(kind(config, config.optim, "optim"), context)->bytes();
}

template <class T>
size_t workspace_bytes(const RunConfig& config, device::Queue& queue, int64_t sequences, bool with_grads) {
  if (queue.kind() == DeviceKind::kCpu) return 0;
  const ModelConfig& m = config.model;
  const HeadShare share = head_share(m, config.mesh.cp);
  const device::AttentionShape shape = {.num_sequences = sequences,
                                        .seq_len = config.data.seq_len,
                                        .num_heads = share.heads,
                                        .num_kv_heads = share.kv_heads,
                                        .head_dim = m.head_size()};
  const device::Accelerator& backend = device::accelerator(queue.kind());
  const bool narrow = std::is_same_v<T, device::bf16>;  // attention in fp32 needs next to nothing
  return backend.library_bytes + (narrow ? size_t(backend.attention_workspace(queue, shape, with_grads)) : 0);
}

template <class T>
MemoryPlan plan(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                bool with_grads) {
  MemoryPlan result;
  device::ParamTable table;
  Decoder<T> decoder(config.model, config.moe, model_context<T>(config, queue, mesh, sequences), table);
  device::Arena saved("activations", queue.kind()), scratch("scratch", queue.kind());
  mesh.expert_peers().forget();
  decoder.reserve(saved, scratch);
  result.activations = saved.bytes();
  result.scratch = scratch.bytes() + mesh.expert_peers().wanted();
  const device::ParamLayout layout(table, mesh.expert().size(), mesh.expert().rank());
  device::StoreParts parts = store_parts(config, mesh, layout, sequences, with_grads);
  parts.planned = true;
  device::ParamStore<T> store(layout, queue.kind(), std::move(parts));
  result.parameters = store.bytes();
  result.workspace = workspace_bytes<T>(config, queue, sequences, with_grads);
  if (!with_grads) return result;
  result.optimizer = optimizer_bytes(config, mesh, store);
  const base::Section objective = kind(config, config.objective, "objective");
  if (optim::make_objective<device::wide_t<T>>(objective)->inputs().reference)
    result.reference = plan<T>(config, queue, mesh, sequences, false).total();
  return result;
}

size_t cache_elements(const RunConfig& config) {
  if (!config.rollout) return 0;
  const RolloutConfig& r = *config.rollout;
  const ModelConfig& m = config.model;
  const int64_t pages = num_cache_pages(r.sequences, r.page_size, r.cache_tokens, config.data.seq_len);
  return size_t(pages * r.page_size * 2 * m.layers * m.kv_heads * m.head_size());
}

// The largest micro-batch below `sequences` whose plan fits, 0 if none does.
int64_t largest_fit(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                    bool with_grads, size_t free) {
  int64_t fits = 0, too_many = sequences;
  while (too_many - fits > 1) {
    const int64_t middle = fits + (too_many - fits) / 2;
    (plan_memory(config, queue, mesh, middle, with_grads).total() <= free ? fits : too_many) = middle;
  }
  return fits;
}

std::string advice(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                   bool with_grads, size_t free) {
  std::vector<std::string> ways;
  RunConfig other = config;
  for (int zero = config.mesh.zero + 1; with_grads && mesh.data().size() > 1 && zero <= 3; ++zero) {
    other.mesh.zero = zero;
    if (!ways.empty() || plan_memory(other, queue, mesh, sequences, true).total() > free) continue;
    ways.push_back(fmt::format("mesh.zero: {} fits", zero));
  }
  other = config;
  const size_t without = ways.size();
  for (const Recompute more : kRecomputes) {
    if (!with_grads || more <= config.train.activation_recompute) continue;
    other.train.activation_recompute = more;
    if (ways.size() > without || plan_memory(other, queue, mesh, sequences, true).total() > free) continue;
    ways.push_back(fmt::format("train.activation_recompute: {} fits", recompute_name(more)));
  }
  if (const int64_t fits = largest_fit(config, queue, mesh, sequences, with_grads, free); fits > 0)
    ways.push_back(fmt::format("train.micro_batch: {} fits", fits));
  if (!ways.empty()) return fmt::format("{}", fmt::join(ways, ", "));
  other.train.activation_recompute = Recompute::kFull;
  const int64_t fits = with_grads ? largest_fit(other, queue, mesh, sequences, true, free) : 0;
  if (fits > 0) return fmt::format("train.micro_batch: {} with train.activation_recompute: full fits", fits);
  return config.rollout
             ? "one sequence does not fit either: make the model, data.seq_len, rollout.sequences or "
               "rollout.cache_tokens smaller"
             : "one sequence does not fit either: make the model or data.seq_len smaller";
}

}  // namespace

template <class T>
ModelContext<T> model_context(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh,
                              int64_t max_sequences) {
  return {.queue = &queue,
          .kernels = &device::device_kernels<T>(queue.kind()),
          .mesh = &mesh,
          .max_sequences = max_sequences,
          .seq_len = config.data.seq_len / mesh.context().size(),
          .recompute = config.train.activation_recompute,
          .mask_documents = config.data.mask_documents,
          .logits_bytes = queue.kind() == DeviceKind::kCpu ? kCpuLogits : kCudaLogits};
}
template ModelContext<float> model_context(const RunConfig&, device::Queue&, comm::Mesh&, int64_t);
template ModelContext<device::bf16> model_context(const RunConfig&, device::Queue&, comm::Mesh&, int64_t);

std::string MemoryPlan::text() const {
  const auto gib = [](size_t bytes) { return double(bytes) / 0x1p30; };
  std::string parts =
      fmt::format("parameters and gradients {:.2f}, optimizer {:.2f}, activations {:.2f}, scratch {:.2f}",
                  gib(parameters), gib(optimizer), gib(activations), gib(scratch));
  if (reference > 0) parts += fmt::format(", reference model {:.2f}", gib(reference));
  if (cache > 0) parts += fmt::format(", keys and values of samples {:.2f}", gib(cache));
  if (workspace > 0) parts += fmt::format(", workspaces of kernels and libraries {:.2f}", gib(workspace));
  return fmt::format("{}, together {:.2f} GiB", parts, gib(total()));
}

bool sums_gradients(const RunConfig& config, int row_ranks, int64_t sequences) {
  return (config.train.global_batch + row_ranks - 1) / row_ranks > sequences;
}

device::StoreParts store_parts(const RunConfig& config, const comm::Mesh& mesh,
                               const device::ParamLayout& layout, int64_t sequences, bool with_grads) {
  const auto plan = [&](device::Group group, const comm::Communicator& ranks) {
    return comm::ShardPlan(layout, group, ranks.size(), config.mesh.zero);
  };
  const bool sums = sums_gradients(config, mesh.row_ranks(), sequences);
  return comm::shard_store({.grads = with_grads, .sums = sums}, mesh,
                           plan(device::Group::kDense, mesh.data()),
                           plan(device::Group::kExpert, mesh.replicas()));
}

MemoryPlan plan_memory(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                       bool with_grads) {
  const bool bf16 = queue.kind() == DeviceKind::kCuda && !config.fp32;
  MemoryPlan result = bf16 ? plan<device::bf16>(config, queue, mesh, sequences, with_grads)
                           : plan<float>(config, queue, mesh, sequences, with_grads);
  result.cache = cache_elements(config) * (bf16 ? sizeof(device::bf16) : sizeof(float));
  return result;
}

void require_memory(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                    bool with_grads, size_t free) {
  const MemoryPlan need = plan_memory(config, queue, mesh, sequences, with_grads);
  if (need.total() <= free) return;
  fail(ExitCode::kUsage,
       "{}: micro-batches of {} sequences of {} tokens do not fit into the {:.2f} GiB that are free: {}; {}",
       config.source, sequences, config.data.seq_len, double(free) / 0x1p30, need.text(),
       advice(config, queue, mesh, sequences, with_grads, free));
}

}  // namespace cadre::trainer
