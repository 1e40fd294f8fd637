#include "trainer/run/model_state.h"

#include <algorithm>
#include <thread>

#include "parallel/device/accelerator.h"
#include "trainer/run/cores.h"

namespace cadre::trainer {
namespace {

using device::bf16;
using device::DeviceKind;

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
  auto store = std::make_unique<device::ParamStore<T>>(
      m.layout, m.queue.kind(),
      store_parts(m.config, m.mesh, m.layout, m.config.train.micro_batch, with_grads));
  static_cast<Decoder<T>&>(*m.network).bind(*store);
  return store;
}

}  // namespace

// Where a launcher shows each rank one GPU alone, that is number 0 to it.
std::unique_ptr<device::Queue> make_queue(const RunConfig& config, comm::World& world, comm::Mesh& mesh) {
  if (!on_cuda(config, world)) return nullptr;
  const device::Accelerator& backend = device::accelerator(DeviceKind::kCuda);
  const device::Probe probe = backend.probe();
  require(probe.num_devices <= 1 || world.local_size() <= probe.num_devices, ExitCode::kUsage,
          "{}: found {} ranks on a host with {} GPUs; start one rank for each GPU, or set device: cpu",
          config.source, world.local_size(), probe.num_devices);
  auto queue = backend.make_queue(probe.num_devices > 1 ? world.local_rank() : 0);
  mesh.connect(*queue);
  return queue;
}

int threads_per_rank(const RunConfig& config, int local_ranks) {
  if (config.threads > 0) return config.threads;
  const int ranks = std::max(1, local_ranks) * processes_that_share_cores();
  return std::max(1, int(std::thread::hardware_concurrency()) / ranks);
}

bool shares_widths(const ModelState& model) {
  return model.config.moe && moe::share_widths(*model.config.moe, model.mesh.expert().size(),
                                               model.queue.kind() != DeviceKind::kCpu);
}

bool on_cuda(const RunConfig& config, const comm::World& world) {
  if (config.device == "cuda") return true;
  if (config.device == "cpu") return false;
  for (const device::Accelerator& entry : device::accelerators()) {
    if (entry.kind == DeviceKind::kCuda && entry.probe().num_devices >= world.local_size()) return true;
  }
  return false;
}

ModelState::ModelState(const RunConfig& run, comm::World& world, int64_t max_sequences, bool with_grads)
    : config(run),
      mesh(world, config.mesh),
      host(threads_per_rank(config, world.local_size())),
      owned(make_queue(config, world, mesh)),
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
