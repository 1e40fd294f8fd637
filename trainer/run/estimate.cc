#include "trainer/run/estimate.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "parallel/comm/mesh.h"
#include "parallel/comm/transports.h"
#include "parallel/device/sharding.h"
#include "trainer/model/decoder.h"
#include "trainer/model/head_exchange.h"
#include "trainer/run/memory_plan.h"
#include "trainer/run/timeline.h"

namespace cadre::trainer {
namespace {

using device::Group;

struct Sizes {
  std::vector<double> bucket[device::kNumGroups];  // elements of a rank, by bucket
  std::vector<double> work;                        // share of the forward pass, by bucket
  double local[device::kNumGroups] = {0, 0};
  double activation_bytes = 0;
  double flops_per_token = 0;
  int moe_layers = 0;
};

// Multiply-adds of a token by bucket, as shares of their sum: active parameters, and what attention does with keys and
// values, which is counted as flops_per_token counts it.
std::vector<double> work_of(const RunConfig& run, const device::ParamTable& table) {
  std::vector<double> work(size_t(table.num_buckets()), 0.0);
  for (const device::ParamRow& row : table.rows()) {
    if (row.bucket == 0 || row.shape.size() < 2) continue;
    const bool expert = row.group == Group::kExpert;
    const double active = expert ? double(run.moe->top_k) / run.moe->num_experts : 1;
    work[size_t(row.bucket)] += active * double(row.numel());
  }
  if (run.model.tie_head) work.back() += double(run.model.vocab * run.model.dim);
  const double attention = double(run.data.seq_len) * double(run.model.heads * run.model.head_size());
  for (int layer = 0; layer < run.model.layers; ++layer) work[size_t(1 + 2 * layer)] += attention;
  double sum = 0;
  for (const double w : work) sum += w;
  for (double& w : work) w /= sum;
  return work;
}

Sizes sizes_of(const RunConfig& run, int gpus, int ep, Recompute recompute) {
  const std::unique_ptr<comm::World> world = comm::make_imitated_world(gpus);
  comm::Mesh mesh(*world, {.ep = ep, .cp = run.mesh.cp});
  device::CpuQueue queue(1);
  std::optional<moe::MoeConfig> moe = run.moe;
  if (moe) {  // as GPUs do
    moe->dispatch = moe::DispatchKind::kGather;
    moe->shares = moe::share_widths(*moe, ep, true) ? moe::ExpertShares::kWidth : moe::ExpertShares::kExperts;
  }
  constexpr int64_t kGpuLogits = int64_t(8) << 30;  // of fp32, for 4 GiB of bf16
  const ModelContext<float> context = {.queue = &queue,
                                       .kernels = &device::cpu_kernels<float>(),
                                       .mesh = &mesh,
                                       .max_sequences = run.train.micro_batch,
                                       .seq_len = run.data.seq_len / run.mesh.cp,
                                       .recompute = recompute,
                                       .mask_documents = run.data.mask_documents,
                                       .logits_bytes = kGpuLogits};
  device::ParamTable table;
  Decoder<float> model(run.model, moe, context, table);
  device::Arena saved("activations", device::DeviceKind::kCpu), scratch("scratch", device::DeviceKind::kCpu);
  model.reserve(saved, scratch);
  Sizes sizes;
  // Nearly all of it is of the storage type, of which bf16 takes half.
  sizes.activation_bytes = 0.5 * double(saved.bytes() + scratch.bytes());
  sizes.flops_per_token = model.flops_per_token(double(run.data.seq_len));
  const device::ParamLayout layout(table, ep, 0);
  for (const Group group : {Group::kDense, Group::kExpert}) {
    for (int b = 0; b < table.num_buckets(); ++b)
      sizes.bucket[int(group)].push_back(double(layout.bucket(group, b).size()));
    sizes.local[int(group)] = double(layout.group_size(group));
  }
  sizes.work = work_of(run, table);
  for (int layer = 0; moe && layer < run.model.layers; ++layer)
    sizes.moe_layers += run.model.is_moe(layer) ? 1 : 0;
  return sizes;
}

// Time for each rank of a group to send `bytes`, spread evenly over the others. Members are `stride` ranks apart, and
// ranks fill nodes in order.
double send_ms(const Cluster& cluster, double bytes, int members, int stride) {
  if (members <= 1) return 0;
  const int in_node = std::clamp(cluster.gpus_per_node / stride, 1, members);
  const double there = bytes * (in_node - 1) / (members - 1), away = bytes - there;
  return 1e3 * std::max(there / (cluster.node_gb_s * 1e9), away / (cluster.network_gb_s * 1e9));
}

double memory_ms(const Cluster& cluster, double bytes) {
  return 1e3 * bytes / (cluster.memory_gb_s * 1e9);
}

// What the ranks that share parameters send each other in a step.
struct Shared {
  std::vector<BucketTimes> buckets;
  double owned = 0;                         // elements that this rank updates
  double update_ms = 0, own_update_ms = 0;  // of all, and of those that nobody else holds
  double sent_ms = 0, moved_bytes = 0;      // gradients and values: on the wire, and in this GPU's memory
};
Shared share_parameters(const Cluster& cluster, const Sizes& sizes, int gpus, int ep, int zero,
                        double forward, double backward) {
  constexpr double kUpdateBytes = 28;  // gradient, master, two moments: read; master, moments, value: written
  constexpr double kBytes = 2;         // of a gradient and a value: bf16
  const int ranks[] = {gpus, gpus / ep}, strides[] = {1, ep};
  Shared shared;
  for (const double work : sizes.work)
    shared.buckets.push_back({.forward = forward * work, .backward = backward * work});
  for (int g = 0; g < device::kNumGroups; ++g) {
    const double n = ranks[g];
    shared.owned += sizes.local[g] / n;
    if (ranks[g] == 1) shared.own_update_ms += memory_ms(cluster, kUpdateBytes * sizes.local[g]);
    for (size_t b = 0; ranks[g] > 1 && b < sizes.bucket[g].size(); ++b) {
      const double bytes = kBytes * sizes.bucket[g][b];
      const double ms = send_ms(cluster, bytes * (n - 1) / n, ranks[g], strides[g]);
      BucketTimes& bucket = shared.buckets[b];
      bucket.gradients += ms;
      bucket.values += ms;
      bucket.update += memory_ms(cluster, kUpdateBytes * sizes.bucket[g][b] / n);
      const double gathers = zero >= 3 ? 2 : 1;  // for the forward pass and again for the backward pass
      shared.sent_ms += (1 + gathers) * ms;
      // Gradients: sent parts are read, others written, then all parts of the own slice read and their sum written.
      // Values: the slice is read, the others written.
      shared.moved_bytes += bytes * (2 * (n - 1) / n + 1 + 1 / n) + gathers * bytes;
    }
  }
  shared.update_ms = memory_ms(cluster, kUpdateBytes * shared.owned);
  return shared;
}

// Values and gradients in bf16; masters, two moments and sums of several micro-batches in fp32. What is sharded is the
// rank's own part, beside buckets that take turns; which is what, comm::shard_store says.
double state_bytes(const Sizes& sizes, int gpus, int ep, int zero, bool sums) {
  const int ranks[] = {gpus, gpus / ep};
  double bytes = 0;
  for (int g = 0; g < device::kNumGroups; ++g) {
    const double whole = sizes.local[g], own = whole / ranks[g];
    const device::Turns turns(std::vector<int64_t>(sizes.bucket[g].begin(), sizes.bucket[g].end()));
    const bool shared = ranks[g] > 1, slices = zero >= 2 && (shared || (sums && gpus > 1));
    bytes += (4 + 8) * own;
    bytes += zero >= 3 && shared ? 2 * own + 2 * double(turns.size()) : 2 * whole;
    if (slices) bytes += (sums ? 4 : 2) * own + 2 * double(turns.size());
    if (!slices) bytes += (sums ? 2 + 4 : 2) * whole;
  }
  return bytes;
}

// Bytes that a GPU packs for its context group, its own part included, for queries, keys, values and outputs of `tokens`
// of its own, one way: forward, or as gradients.
double exchanged_bytes(const RunConfig& run, double tokens) {
  const int cp = run.mesh.cp;
  if (cp == 1) return 0;
  const HeadShare share = head_share(run.model, cp);
  const double numbers = 2.0 * double(cp * (share.heads + share.kv_heads) * run.model.head_size());
  return 2 * numbers * tokens * run.model.layers;
}

Estimate estimate(const Cluster& cluster, const RunConfig& run, const Sizes& sizes, int ep, int zero,
                  Recompute recompute) {
  const int gpus = cluster.gpus(), cp = run.mesh.cp;
  Estimate e{.ep = ep, .data_ranks = gpus / cp, .zero = zero, .recompute = recompute};
  const double tokens = double(run.train.micro_batch * run.data.seq_len / cp);
  e.tokens = tokens * gpus;
  const double rate = cluster.peak_tflops * 1e12 * cluster.efficiency;
  const double forward = 1e3 * sizes.flops_per_token / 3 * tokens / rate;
  // Made again: the whole forward pass, or norms and rotations, which cost passes over memory and next to no time here.
  const double again = recompute == Recompute::kFull ? forward : 0;
  const double backward = 2 * forward + again;
  e.compute_ms = forward + backward;
  const Shared shared = share_parameters(cluster, sizes, gpus, ep, zero, forward, backward);
  e.update_ms = shared.update_ms;
  e.gradients_ms = exposed_gradients(shared.buckets);
  e.values_ms = exposed_values(shared.buckets, shared.own_update_ms);
  if (zero >= 3) e.values_ms += std::max(0.0, exposed_backward(shared.buckets) - e.gradients_ms);
  // Four journeys a layer and token to each other rank. The first is hidden by the router.
  constexpr int kJourneys = 4, kExposed = 3;
  const double row = 2 * double(run.model.dim);
  const double journey_ms = sizes.moe_layers * send_ms(cluster, (ep - 1) * tokens * row, ep, 1);
  e.experts_ms = kExposed * journey_ms;
  // A journey reads what it sends and writes what it receives, own rows too.
  const double row_bytes = ep > 1 ? kJourneys * sizes.moe_layers * 2.0 * ep * tokens * row : 0;
  // Nothing hides what attention waits for. It is packed, read, written and unpacked: each a pass over memory.
  const double exchanged = exchanged_bytes(run, tokens) * (recompute == Recompute::kFull ? 3 : 2);
  constexpr int kPasses = 6;  // three reads and three writes
  e.context_ms = send_ms(cluster, exchanged * (cp - 1) / cp, cp, 1) + memory_ms(cluster, kPasses * exchanged);
  const double hidden_ms =
      shared.sent_ms - e.gradients_ms - e.values_ms + (kJourneys - kExposed) * journey_ms;
  e.beside_ms = std::max(0.0, hidden_ms) * cluster.comm_sms / cluster.sms +
                memory_ms(cluster, shared.moved_bytes + row_bytes);
  const bool sums = sums_gradients(run, gpus / cp, run.train.micro_batch);
  constexpr double kWorkspaces = 2.5 * 0x1p30;  // libraries, NCCL and its staging memory
  const double bytes = state_bytes(sizes, gpus, ep, zero, sums) + sizes.activation_bytes + kWorkspaces;
  e.memory_gib = bytes / 0x1p30;
  e.fits = e.memory_gib <= cluster.memory_gib;
  e.peak_share = sizes.flops_per_token * tokens / (1e-3 * e.step_ms() * cluster.peak_tflops * 1e12);
  return e;
}

// With as little sharded as fits: higher stages send more, or save nothing that is needed.
Estimate lowest_stage(const Cluster& cluster, const RunConfig& run, int ep, Recompute recompute) {
  constexpr int kMostSharded = 3;
  const Sizes sizes = sizes_of(run, cluster.gpus(), ep, recompute);
  int zero = 1;
  Estimate e = estimate(cluster, run, sizes, ep, zero, recompute);
  while (!e.fits && cluster.gpus() > 1 && zero < kMostSharded)
    e = estimate(cluster, run, sizes, ep, ++zero, recompute);
  return e;
}

}  // namespace

Cluster read_cluster(const std::filesystem::path& file) {
  base::Section s = base::parse_run_file(file, {});
  Cluster c;
  constexpr int64_t kMost = 1 << 20;
  c.nodes = int(s.integer("nodes", c.nodes, {1, kMost}));
  c.gpus_per_node = int(s.integer("gpus_per_node", c.gpus_per_node, {1, kMost}));
  c.memory_gib = s.number("memory_gib", c.memory_gib, {.above = 0});
  c.peak_tflops = s.number("peak_tflops", c.peak_tflops, {.above = 0});
  c.efficiency = s.number("efficiency", c.efficiency, {.max = 1, .above = 0});
  c.memory_gb_s = s.number("memory_gb_s", c.memory_gb_s, {.above = 0});
  c.node_gb_s = s.number("node_gb_s", c.node_gb_s, {.above = 0});
  c.network_gb_s = s.number("network_gb_s", c.network_gb_s, {.above = 0});
  c.sms = int(s.integer("sms", c.sms, {1, kMost}));
  c.comm_sms = int(s.integer("comm_sms", c.comm_sms, {0, c.sms}));
  s.finish();
  return c;
}

std::vector<Estimate> estimate_layouts(const Cluster& cluster, const RunConfig& run) {
  require(cluster.gpus() % run.mesh.cp == 0, ExitCode::kUsage,
          "mesh.cp is {}, which does not divide the cluster's {} GPUs", run.mesh.cp, cluster.gpus());
  std::vector<Estimate> all;
  const int experts = run.moe ? run.moe->num_experts : 1;
  for (int ep = 1; ep <= std::min(experts, cluster.gpus()); ++ep) {
    if (experts % ep != 0 || cluster.gpus() % ep != 0) continue;
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull})
      all.push_back(lowest_stage(cluster, run, ep, recompute));
  }
  std::stable_sort(all.begin(), all.end(), [](const Estimate& a, const Estimate& b) {
    return a.fits != b.fits ? a.fits : a.step_ms() < b.step_ms();
  });
  return all;
}

}  // namespace cadre::trainer
