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
#include "optim/sequence_metrics.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/shards.h"
#include "trainer/rollout/rollout_source.h"
#include "trainer/run/dataset.h"
#include "trainer/run/expert_domains.h"
#include "trainer/run/model_state.h"
#include "trainer/run/online_selection.h"
#include "trainer/run/probe.h"
#include "trainer/run/rebalance.h"

namespace cadre::trainer {

// Skips, evaluations, and the wall time of training over all processes of the run.
struct RunCounters {
  int64_t skips_in_row = 0, skipped_steps = 0;
  double train_seconds = 0;
  bool total_fixed = false;           // max_minutes has cut Progress::total_steps to what fits
  std::optional<uint64_t> evaluated;  // the newest step that was
};

class TrainState {
 public:
  // Collective over the world. `dataset` is borrowed and outlives the state. all: of an asynchronous run, whose `world`
  // holds the ranks that train, these and those that sample; borrowed.
  TrainState(const RunConfig& config, const Dataset& dataset, comm::World& world,
             comm::Communicator* all = nullptr);

  const RunConfig& config() const { return model.config; }
  // The next global batch, read or sampled. Collective.
  data::LoadedBatch next_batch() { return rollouts ? rollouts->next(progress) : feed.next(progress); }
  // Before the update: whether what the objective saw of that batch can be; see RolloutSource::check_first_update.
  void check(const optim::NamedValues& objective_metrics);

  ModelState model;
  comm::ShardPlan dense_plan, expert_plan;
  std::unique_ptr<comm::Reducer> owned_reducer;
  comm::Reducer& reducer;
  optim::OwnedSlices optimizer_context;
  std::unique_ptr<optim::Optimizer<Real>> optimizer;
  std::function<void(double& squares)> start_norm;  // of all gradients, when their sums are in
  std::unique_ptr<optim::Objective<Real>> objective;
  std::unique_ptr<ModelState>
      reference;  // frozen, with the values that the run started with; null unless asked for
  std::unique_ptr<optim::Schedule> schedule;
  double peak_lr = 0;
  std::unique_ptr<data::Mixer> mixer;
  std::unique_ptr<data::Curriculum> curriculum;
  data::DataFeed feed;                      // of training data, or of the prompts to sample from
  std::unique_ptr<RolloutSource> rollouts;  // null: the data is trained on as it is
  // Before values and optimizer states change: whoever still reads them makes the queue wait. May be empty.
  std::function<void()> before_update;
  // Sees each batch before it is trained on; may be empty.
  std::function<void(const data::LoadedBatch&)> on_batch;
  std::unique_ptr<Probe> probe;            // null when nobody asks for influence
  std::unique_ptr<OnlineSelector> online;  // null when every batch is trained on whole
  ExpertDomains expert_domains;
  Rebalance rebalance;  // of experts between ranks
  const Dataset& dataset;
  Progress progress;
  RunCounters counters;
  SpikeDetector spikes;
};

}  // namespace cadre::trainer
