#include "trainer/run/train_state.h"

#include <algorithm>
#include <thread>

#include "data/mixer.h"

namespace cadre::trainer {
namespace {

using device::DeviceKind;
using device::Group;

ModelContext<Real> model_context(const RunConfig& config, comm::Mesh& mesh, device::Queue& queue,
                                 int64_t max_sequences) {
  return {.queue = &queue,
          .kernels = &device::cpu_kernels<Real>(),
          .mesh = &mesh,
          .max_sequences = max_sequences,
          .seq_len = config.data.seq_len,
          .mask_documents = config.data.mask_documents};
}

optim::OptimizerContext<Real> make_optimizer_context(ModelState& model, const comm::ShardPlan& dense,
                                                     const comm::ShardPlan& expert) {
  optim::OptimizerContext<Real> context;
  context.queue = &model.queue;
  context.kernels = &device::cpu_kernels<Real>();
  context.optim_kernels = &optim::cpu_optim_kernels<Real>();
  context.store = &model.store;
  const int ranks[] = {model.mesh.data().rank(), model.mesh.replicas().rank()};
  const comm::ShardPlan* plans[] = {&dense, &expert};
  for (int g = 0; g < device::kNumGroups; ++g) {
    context.pieces[g] = plans[g]->pieces(ranks[g]);
    context.state_size[g] = plans[g]->state_size(ranks[g]);
    context.in_norm[g] = model.config.mesh.zero > 0 || ranks[g] == 0;
  }
  return context;
}

int64_t planned_tokens(const RunConfig& config) {
  return config.train.steps * config.train.global_batch * config.data.seq_len;
}

data::PlannerConfig planner_config(const RunConfig& config, const data::Mixer& mixer) {
  return {.seed = config.seed,
          .global_batch = config.train.global_batch,
          .seq_len = config.data.seq_len,
          .pack = config.data.pack,
          .max_epochs = mixer.max_epochs(),
          .total_tokens = planned_tokens(config)};
}

data::LoaderConfig loader_config(const RunConfig& config, const comm::Communicator& data) {
  return {.micro_batch = config.train.micro_batch,
          .seq_len = config.data.seq_len,
          .mask_documents = config.data.mask_documents,
          .prefetch = config.data.prefetch,
          .data_rank = data.rank(),
          .data_ranks = data.size()};
}

RunConfig with_vocab(RunConfig config, int64_t vocab) {
  set_vocab(config, vocab);
  return config;
}

}  // namespace

int threads_per_rank(const RunConfig& config, int local_ranks) {
  if (config.threads > 0) return config.threads;
  return std::max(1, int(std::thread::hardware_concurrency()) / std::max(1, local_ranks));
}

ModelState::ModelState(const RunConfig& run, comm::World& world, int64_t max_sequences, bool with_grads)
    : config(run),
      mesh(world, config.mesh),
      queue(threads_per_rank(config, world.local_size())),
      decoder(config.model, config.moe, model_context(config, mesh, queue, max_sequences), table),
      layout(table, mesh.expert().size(), mesh.expert().rank()),
      store(layout, DeviceKind::kCpu, with_grads),
      saved("activations", DeviceKind::kCpu),
      scratch("scratch", DeviceKind::kCpu) {
  store.initialize(config.seed);
  decoder.bind(store);
  decoder.reserve(saved, scratch);
  saved.allocate();
  scratch.allocate();
  decoder.reserve(saved, scratch);
}

TrainState::TrainState(const RunConfig& run, const Dataset& set, comm::World& world)
    : model(with_vocab(run, set.vocab), world, run.train.micro_batch, true),
      dense_plan(model.layout, Group::kDense, model.mesh.data().size(), run.mesh.zero),
      expert_plan(model.layout, Group::kExpert, model.mesh.replicas().size(), run.mesh.zero),
      reducer(model.mesh, model.store, dense_plan, expert_plan),
      optimizer_context(make_optimizer_context(model, dense_plan, expert_plan)),
      optimizer(optim::make_optimizer<Real>(kind(run, run.optim, "optim"), optimizer_context)),
      objective(optim::make_objective<Real>(kind(run, run.objective, "objective"))),
      reference(objective->inputs().reference
                    ? std::make_unique<ModelState>(model.config, world, run.train.micro_batch, false)
                    : nullptr),
      schedule(optim::make_schedule(kind(run, run.schedule, "schedule"))),
      peak_lr(optim::read_peak_lr(kind(run, run.optim, "optim"))),
      mixer(data::make_mixer(kind(run, run.mixer, "mixer"),
                             data::mixer_context(*set.train, planned_tokens(run)))),
      curriculum(data::make_curriculum(kind(run, run.curriculum, "curriculum"))),
      feed(planner_config(run, *mixer), loader_config(run, model.mesh.data()), *set.train, *mixer,
           *curriculum),
      dataset(set),
      spikes(run.spikes) {
  const bool pairs = objective->inputs().pairs, has_pairs = set.train->kind() == data::SetKind::kPreference;
  require(pairs == has_pairs, ExitCode::kUsage, "{}: objective.name and data.manifest: {}", run.source,
          pairs ? "this objective trains on pairs, and the data holds none; prepare it with --kind preference"
                : "the data holds pairs; train on it with objective: dpo");
  progress.total_steps = uint64_t(run.train.steps);
  progress.total_tokens = uint64_t(planned_tokens(run));
}

}  // namespace cadre::trainer
