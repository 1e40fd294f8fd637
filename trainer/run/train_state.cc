#include "trainer/run/train_state.h"

#include "data/mixer.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/feed_plan.h"
#include "trainer/run/influence_targets.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/rollout_setup.h"

namespace cadre::trainer {
namespace {

using device::bf16;
using device::Group;

template <class T>
std::unique_ptr<comm::Reducer> make_reducer(ModelState& m, const comm::ShardPlan& dense,
                                            const comm::ShardPlan& expert) {
  return std::make_unique<comm::GradReducer<T>>(m.mesh, static_cast<device::ParamStore<T>&>(m.store), dense,
                                                expert);
}

optim::OwnedSlices owned(const ModelState& m, const comm::ShardPlan& dense, const comm::ShardPlan& expert) {
  optim::OwnedSlices slices;
  const int ranks[] = {m.mesh.data().rank(), m.mesh.replicas().rank()};
  const comm::ShardPlan* plans[] = {&dense, &expert};
  for (int g = 0; g < device::kNumGroups; ++g) {
    slices.pieces[g] = plans[g]->pieces(ranks[g]);
    slices.state_size[g] = plans[g]->state_size(ranks[g]);
    slices.in_norm[g] = m.config.mesh.zero > 0 || ranks[g] == 0;
    slices.shared[g] = plans[g]->ranks() > 1 || m.store.sharding(Group(g)).grads;
  }
  return slices;
}

template <class T>
optim::OptimizerContext<T> optimizer_context(ModelState& m, const optim::OwnedSlices& slices) {
  optim::OptimizerContext<T> context{slices};
  context.queue = &m.queue;
  context.kernels = &device::device_kernels<T>(m.queue.kind());
  context.optim_kernels = &optim::optim_kernels<T>(m.queue.kind());
  context.store = &static_cast<device::ParamStore<T>&>(m.store);
  context.seed = m.config.seed;
  return context;
}

template <class T>
void make_updates(TrainState& state, const RunConfig& run) {
  const auto context = optimizer_context<T>(state.model, state.optimizer_context);
  state.optimizer = optim::make_optimizer<T>(kind(run, run.optim, "optim"), context);
  state.start_norm = [context, &reducer = state.reducer](double& squares) {
    optim::start_norm(context, squares, [&](int bucket) { reducer.need_sums(bucket, *context.queue); });
    reducer.finish(*context.queue);
  };
}

std::unique_ptr<Probe> make_probe(TrainState& state) {
  ModelState& model = state.model;
  return std::make_unique<Probe>(model.config, state.dataset,
                                 ProbeContext{.model = &model,
                                              .reducer = &state.reducer,
                                              .optimizer = state.optimizer.get(),
                                              .slices = &state.optimizer_context,
                                              .num_domains = state.dataset.train->num_domains()});
}

// A batch in which a domain's text comes twice is more likely a mistake than a wish.
void require_enough_text(const RunConfig& config, const Dataset& set) {
  const data::MixerContext context = feed_context(config, *set.train);
  const auto weights = data::make_mixer(kind(config, config.mixer, "mixer"), context)->weights({});
  const double batch = double(planned_batch(config) * config.data.seq_len);
  for (size_t k = 0; k < weights.size(); ++k) {
    require(weights[k] * batch <= double(context.domain_tokens[k]), ExitCode::kData,
            "{}: domain '{}' has {} tokens, and one batch needs {:.0f} of it ({:.3f} of {:.0f}). Lower "
            "train.global_batch or the domain's weight, or prepare more of its text",
            config.source, context.domains[k], context.domain_tokens[k], weights[k] * batch, weights[k],
            batch);
  }
}

data::LoaderConfig loader_config(const RunConfig& config, const comm::Mesh& mesh) {
  return {.micro_batch = config.train.micro_batch,
          .seq_len = config.data.seq_len,
          .mask_documents = config.data.mask_documents,
          .prefetch = config.data.prefetch,
          .data_rank = mesh.row_rank(),
          .data_ranks = mesh.row_ranks(),
          .part = mesh.context().rank(),
          .parts = mesh.context().size()};
}

// The model that a mixer compares losses with.
void load_reference(TrainState& state, const RunConfig& run) {
  require(state.reference == nullptr && state.dataset.train->kind() == data::SetKind::kText, ExitCode::kUsage,
          "{}: mixer.name: this one compares losses on text with those of a reference model; the objective "
          "or the "
          "data is for post-training, choose another mixer",
          run.source);
  base::Section section = kind(run, run.mixer, "mixer");
  const std::filesystem::path folder =
      find_checkpoint(section.text("reference", ""), state.model.mesh.data());
  TensorReader reader(folder);
  require(same_tokenizer(reader.index(), folder, state.dataset.tokenizer_file), ExitCode::kUsage,
          "{}: mixer.reference {} was made with another tokenizer than the data; token losses do not compare",
          run.source, folder.string());
  state.reference = std::make_unique<ModelState>(state.model.config, state.model.mesh.world(),
                                                 run.train.micro_batch, false);
  restore_model(*state.reference, reader);
}

RunConfig with_vocab(RunConfig config, int64_t vocab) {
  set_vocab(config, vocab);
  return config;
}

// What reads gradients or values of a whole model beside the step. Alone, a rank shards nothing.
void require_unsharded(const TrainState& state, bool influence, bool reads_values) {
  const RunConfig& run = state.config();
  if (state.dense_plan.ranks() == 1) return;
  require(!influence || run.mesh.zero < 2, ExitCode::kUsage,
          "{}: mesh.zero is {}: influence scores are measured with whole gradients on every rank; set "
          "mesh.zero: 1",
          run.source, run.mesh.zero);
  require(!reads_values || run.mesh.zero < 3, ExitCode::kUsage,
          "{}: mesh.zero is 3: an objective with a reference model, and sampling, need whole parameters on "
          "every rank; set mesh.zero: 2",
          run.source);
}

}  // namespace

void TrainState::check(const optim::NamedValues& objective_metrics) {
  if (!rollouts) return;
  for (const auto& [name, value] : objective_metrics) {
    if (name == "log_w_max_abs") rollouts->check_first_update(value);
  }
}

TrainState::TrainState(const RunConfig& run, const Dataset& set, comm::World& world, comm::Communicator* all)
    : model(with_vocab(run, set.vocab), world, run.train.micro_batch, true),
      dense_plan(model.layout, Group::kDense, model.mesh.data().size(), run.mesh.zero),
      expert_plan(model.layout, Group::kExpert, model.mesh.replicas().size(), run.mesh.zero),
      owned_reducer(model.bf16() ? make_reducer<bf16>(model, dense_plan, expert_plan)
                                 : make_reducer<Real>(model, dense_plan, expert_plan)),
      reducer(*owned_reducer),
      optimizer_context(owned(model, dense_plan, expert_plan)),
      objective(optim::make_objective<Real>(kind(run, run.objective, "objective"))),
      reference(objective->inputs().reference
                    ? std::make_unique<ModelState>(model.config, world, run.train.micro_batch, false)
                    : nullptr),
      schedule(optim::make_schedule(kind(run, run.schedule, "schedule"))),
      peak_lr(optim::read_peak_lr(kind(run, run.optim, "optim"))),
      mixer(data::make_mixer(kind(run, run.mixer, "mixer"), feed_context(run, *set.train))),
      curriculum(feed_curriculum(run, *set.train)),
      feed(planner_config(run, *mixer, *set.train), loader_config(run, model.mesh), *set.train, *mixer,
           *curriculum),
      expert_domains(model, set.train->num_domains()),
      rebalance(run, shares_widths(model)),
      dataset(set),
      spikes(run.spikes) {
  const bool influence = run.influence.period > 0 || mixer->needs() == data::Needs::kInfluence;
  require_unsharded(*this, influence, run.rollout || objective->inputs().reference);
  check_rollout(run, *set.train, objective->inputs());
  if (run.rollout) rollouts = make_rollouts(*this, all);
  if (run.data.pack && !run.rollout) require_enough_text(run, set);
  const bool pairs = objective->inputs().pairs, has_pairs = set.train->kind() == data::SetKind::kPreference;
  require(pairs == has_pairs, ExitCode::kUsage, "{}: objective.name and data.manifest: {}", run.source,
          pairs ? "this objective trains on pairs, and the data holds none; prepare it with --kind preference"
                : "the data holds pairs; train on it with objective: dpo");
  model.bf16() ? make_updates<bf16>(*this, run) : make_updates<Real>(*this, run);
  model.decoder.set_before_bucket([this](int bucket) { reducer.need_values(bucket, model.queue); });
  model.decoder.set_before_backward([this](int bucket) { reducer.start_backward(bucket, model.queue); });
  if (influence) probe = make_probe(*this);
  if (const auto selection = data::make_selector(kind(run, run.selector, "selector"))->online()) {
    require(
        !run.rollout, ExitCode::kUsage,
        "{}: selector.name: this one selects from text that stands, and this run samples its own; leave it "
        "out, or use gumbel with scores of prompts",
        run.source);
    online = std::make_unique<OnlineSelector>(*selection, set, loader_config(run, model.mesh), model);
  }
  if (mixer->needs() == data::Needs::kReferenceLoss) load_reference(*this, run);
  if (mixer->needs() == data::Needs::kProbeEvaluation) {
    require(set.valid != nullptr, ExitCode::kData,
            "{}: this mixer needs held-out text, but the data has no valid split; prepare with --valid",
            run.source);
    held_out_targets(run, *set.valid);  // finds out now whether there is enough
  }
  progress.total_steps = uint64_t(run.train.steps);
  progress.total_tokens = uint64_t(planned_tokens(run, *set.train));
}

}  // namespace cadre::trainer
