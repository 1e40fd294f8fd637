// Everything that a training run holds on one rank: the mesh, the model with its memory, the optimizer and
// the data feed. Members are declared in the order in which they need each other. step.h moves it on by one
// step; checkpoint.h saves it.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "data/feed.h"
#include "optim/clipping.h"
#include "optim/objective.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/shards.h"
#include "trainer/model/decoder.h"
#include "trainer/run/dataset.h"
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
  std::unique_ptr<device::FlatParams<Real>> params;
  Network<Real>& decoder;
  device::FlatParams<Real>& store;
  device::Arena saved, scratch;

  bool bf16() const { return queue.kind() == device::DeviceKind::kCuda && !config.fp32; }
};

// Skips, and the wall time of training over all processes of the run.
struct RunCounters {
  int64_t skips_in_row = 0, skipped_steps = 0;
  double train_seconds = 0;
  bool total_fixed = false;  // max_minutes has cut Progress::total_steps to what fits
};

class TrainState {
 public:
  // Collective over the world. `dataset` is borrowed and outlives the state.
  TrainState(const RunConfig& config, const Dataset& dataset, comm::World& world);

  const RunConfig& config() const { return model.config; }

  ModelState model;
  comm::ShardPlan dense_plan, expert_plan;
  std::unique_ptr<comm::Reducer> owned_reducer;
  comm::Reducer& reducer;
  optim::OwnedSlices optimizer_context;
  std::unique_ptr<optim::Optimizer<Real>> optimizer;
  // optim::global_norm of this run's gradients.
  std::function<optim::GradNorm(double max_norm, double loss)> grad_norm;
  std::unique_ptr<optim::Objective<Real>> objective;
  std::unique_ptr<ModelState>
      reference;  // frozen, with the values that the run started with; null unless asked for
  std::unique_ptr<optim::Schedule> schedule;
  double peak_lr = 0;
  std::unique_ptr<data::Mixer> mixer;
  std::unique_ptr<data::Curriculum> curriculum;
  data::DataFeed feed;
  const Dataset& dataset;
  Progress progress;
  RunCounters counters;
  SpikeDetector spikes;
};

// Whether the run's device is a GPU: `auto` takes one when this build and this machine have it and the run has one
// rank, as several cannot use GPUs yet.
bool on_cuda(const RunConfig& config, int ranks);
// Threads of one rank: the run file's, or the host's cores shared out.
int threads_per_rank(const RunConfig& config, int local_ranks);

}  // namespace cadre::trainer
