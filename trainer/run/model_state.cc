#include "trainer/run/model_state.h"

#include <algorithm>
#include <thread>

#include "parallel/device/accelerator.h"

namespace cadre::trainer {
namespace {

using device::bf16;
using device::DeviceKind;

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
  const auto context = model_context<T>(m.config, m.queue, m.mesh, max_sequences);
  return std::make_unique<Decoder<T>>(m.config.model, m.config.moe, context, m.table);
}

// Before a GPU's memory is asked for, finds out whether it is there.
MemoryPlan checked_plan(ModelState& m, int64_t sequences, bool with_grads) {
  if (m.queue.kind() != DeviceKind::kCpu) {
    const size_t free = device::accelerator(m.queue.kind()).memory().free;
    require_memory(m.config, m.queue, m.mesh, sequences, with_grads, free);
  }
  return plan_memory(m.config, m.queue, m.mesh, sequences, with_grads);
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
      plan(checked_plan(*this, max_sequences, with_grads)),
      params(bf16() ? make_store<device::bf16>(*this, with_grads) : make_store<Real>(*this, with_grads)),
      decoder(*network),
      store(*params),
      saved("activations", queue.kind()),
      scratch("scratch", queue.kind()) {
  store.initialize(config.seed, queue, host);
  decoder.reserve(saved, scratch);
  saved.allocate();
  scratch.allocate();
  decoder.reserve(saved, scratch);
}

}  // namespace cadre::trainer
