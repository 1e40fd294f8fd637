#include "trainer/run/model_state.h"

#include <algorithm>
#include <thread>

#include "parallel/device/accelerator.h"

namespace cadre::trainer {
namespace {

using device::bf16;
using device::DeviceKind;

// Logits of a chunk: on the CPU as much as its caches like, on a GPU so much that a micro-batch's logits usually stay
// for the backward pass.
constexpr int64_t kCpuLogits = int64_t(256) << 20, kCudaLogits = int64_t(4) << 30;

std::unique_ptr<device::Queue> make_queue(const RunConfig& config, const comm::World& world) {
  if (!on_cuda(config, world.size())) return nullptr;
  require(
      world.size() == 1, ExitCode::kUsage,
      "{}: device: cuda trains on one GPU with one rank in this version, found {} ranks; start one, or set "
      "device: cpu",
      config.source, world.size());
  return device::accelerator(DeviceKind::kCuda).make_queue(0);
}

template <class T>
std::unique_ptr<Network<Real>> make_decoder(ModelState& m, int64_t max_sequences) {
  const ModelContext<T> context = {
      .queue = &m.queue,
      .kernels = &device::device_kernels<T>(m.queue.kind()),
      .mesh = &m.mesh,
      .max_sequences = max_sequences,
      .seq_len = m.config.data.seq_len,
      .recompute = m.config.train.activation_recompute,
      .mask_documents = m.config.data.mask_documents,
      .logits_bytes = m.queue.kind() == DeviceKind::kCpu ? kCpuLogits : kCudaLogits};
  return std::make_unique<Decoder<T>>(m.config.model, m.config.moe, context, m.table);
}

// Bytes of saved activations and scratch for this many sequences a micro-batch. Takes no memory.
template <class T>
size_t activation_bytes(ModelState& m, int64_t sequences) {
  device::ParamTable table;
  std::swap(table, m.table);
  const auto probe = make_decoder<T>(m, sequences);
  device::Arena saved("activations", m.queue.kind()), scratch("scratch", m.queue.kind());
  probe->reserve(saved, scratch);
  std::swap(table, m.table);
  return saved.bytes() + scratch.bytes();
}

// Before a GPU's memory is asked for: an error that names the largest micro-batch that fits.
void require_memory(ModelState& m, int64_t sequences, bool with_grads) {
  if (m.queue.kind() == DeviceKind::kCpu) return;
  constexpr double kOwn = 1.5 * 0x1p30;  // workspaces of libraries and kernels
  constexpr int kStates = 2;             // of the optimizer, fp32
  const double free = double(device::accelerator(m.queue.kind()).memory().free);
  double states = 0;
  for (int g = 0; with_grads && g < device::kNumGroups; ++g)
    states += double(kStates * sizeof(Real)) * double(m.layout.group_size(device::Group(g)));
  const auto need = [&](int64_t n) {
    return kOwn + states + double(m.bf16() ? activation_bytes<bf16>(m, n) : activation_bytes<Real>(m, n));
  };
  const double wanted = need(sequences);
  if (wanted <= free) return;
  int64_t fits = sequences / 2;
  while (fits > 0 && need(fits) > free) fits /= 2;
  fail(ExitCode::kUsage,
       "{}: {} sequences of {} tokens need {:.1f} GiB of GPU memory beside {:.1f} GiB of parameters and "
       "gradients, "
       "and {:.1f} GiB are free; {}",
       m.config.source, sequences, m.config.data.seq_len, wanted / 0x1p30, double(m.store.bytes()) / 0x1p30,
       free / 0x1p30,
       fits > 0 ? fmt::format("train.micro_batch: {} fits", fits)
                : "one sequence does not fit either: make data.seq_len or the model smaller");
}

template <class T>
std::unique_ptr<device::FlatParams<Real>> make_store(ModelState& m, bool with_grads) {
  const TrainConfig& train = m.config.train;
  auto store = std::make_unique<device::ParamStore<T>>(
      m.layout, m.queue.kind(),
      device::StoreParts{.grads = with_grads, .sums = train.global_batch > train.micro_batch});
  static_cast<Decoder<T>&>(*m.network).bind(*store);
  return store;
}

}  // namespace

int threads_per_rank(const RunConfig& config, int local_ranks) {
  if (config.threads > 0) return config.threads;
  return std::max(1, int(std::thread::hardware_concurrency()) / std::max(1, local_ranks));
}

bool on_cuda(const RunConfig& config, int ranks) {
  if (config.device == "cuda") return true;
  if (config.device == "cpu" || ranks > 1) return false;
  for (const device::Accelerator& entry : device::accelerators()) {
    if (entry.kind == DeviceKind::kCuda && entry.probe().num_devices > 0) return true;
  }
  return false;
}

ModelState::ModelState(const RunConfig& run, comm::World& world, int64_t max_sequences, bool with_grads)
    : config(run),
      mesh(world, config.mesh),
      host(threads_per_rank(config, world.local_size())),
      owned(make_queue(config, world)),
      queue(owned ? *owned : host),
      network(bf16() ? make_decoder<device::bf16>(*this, max_sequences)
                     : make_decoder<Real>(*this, max_sequences)),
      layout(table, mesh.expert().size(), mesh.expert().rank()),
      params(bf16() ? make_store<device::bf16>(*this, with_grads) : make_store<Real>(*this, with_grads)),
      decoder(*network),
      store(*params),
      saved("activations", queue.kind()),
      scratch("scratch", queue.kind()) {
  require_memory(*this, max_sequences, with_grads);
  store.initialize(config.seed, queue, host);
  decoder.reserve(saved, scratch);
  saved.allocate();
  scratch.allocate();
  decoder.reserve(saved, scratch);
}

}  // namespace cadre::trainer
