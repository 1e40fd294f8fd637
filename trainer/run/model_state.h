// The model with its memory on one rank, on the device that the run asks for.
#pragma once

#include <memory>

#include "parallel/comm/mesh.h"
#include "trainer/model/decoder.h"
#include "trainer/run/memory_plan.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

// What the step, checkpoints and evaluation work in: wide_t of the device's storage type, float on the CPU and bf16
// (with fp32 masters) on CUDA.
using Real = float;

// The model alone, with values but without gradients unless asked: what evaluation and generation need.
class ModelState {
 public:
  // max_sequences of seq_len tokens a micro-batch. Values are those of Init from the run's seed. Throws
  // Error(kUsage) when the run's device is not there, or too small.
  ModelState(const RunConfig& config, comm::World& world, int64_t max_sequences, bool with_grads);
  ModelState(const ModelState&) = delete;
  ModelState& operator=(const ModelState&) = delete;

  RunConfig config;  // model.vocab is set
  comm::Mesh mesh;
  device::CpuQueue host;                 // this rank's threads
  std::unique_ptr<device::Queue> owned;  // null on the CPU
  device::Queue& queue;                  // where the model runs
  device::ParamTable table;
  std::unique_ptr<Network<Real>> network;
  device::ParamLayout layout;
  const MemoryPlan plan;
  std::unique_ptr<device::FlatParams<Real>> params;
  Network<Real>& decoder;
  device::FlatParams<Real>& store;
  device::Arena saved, scratch;

  bool bf16() const { return queue.kind() == device::DeviceKind::kCuda && !config.fp32; }
};

// Whether the run's device is a GPU: `auto` takes them when this build and this machine have one for each of the host's
// ranks.
bool on_cuda(const RunConfig& config, const comm::World& world);
// A queue on this rank's GPU, to which the mesh is connected; null when the run is on the CPU. Ranks of a host take
// its GPUs in order. Throws Error(kUsage) when there are too few.
std::unique_ptr<device::Queue> make_queue(const RunConfig& config, comm::World& world, comm::Mesh& mesh);
// Whether the ranks of an expert group have parts of every expert.
bool shares_widths(const ModelState& model);
// Threads of one rank: the run file's, or the host's cores shared out.
int threads_per_rank(const RunConfig& config, int local_ranks);

}  // namespace cadre::trainer
