#include "trainer/run/rollout_setup.h"

#include "data/reward.h"
#include "trainer/rollout/async_feed.h"
#include "trainer/rollout/server.h"

namespace cadre::trainer {

// What a run samples, the training loop must be able to train on.
void check_rollout(const RunConfig& config, const data::Corpus& corpus,
                   const optim::ObjectiveInputs& inputs) {
  const bool prompts = corpus.kind() == data::SetKind::kPrompts;
  if (!config.rollout) {
    require(!prompts, ExitCode::kUsage,
            "{}: a set of prompts has no answers to train on: give a set of conversations or pairs, or text, "
            "or a "
            "`rollout` section and an objective for sampled responses",
            config.source);
    return;
  }
  const base::Section section = kind(config, config.rollout_node, "rollout");
  require_trainable(*config.rollout, section);
  require(inputs.advantage, ExitCode::kUsage,
          "{}: objective.name: this one does not train on sampled responses, and the run file has a "
          "`rollout` section; "
          "use vespo, or another with advantages",
          config.source);
  require(
      prompts, ExitCode::kUsage,
      "{}: data.manifest: sampling needs a set of prompts; prepare one with --kind prompts, or give `tasks`",
      config.source);
  if (config.train.global_batch % config.rollout->group != 0)
    section.reject("group", fmt::format("train.global_batch is {} samples, which are not whole groups of {}",
                                        config.train.global_batch, config.rollout->group));
  require(!config.data.pack || config.data.mask_documents, ExitCode::kUsage,
          "{}: data.mask_documents: false: packed samples would see each other; set data.pack: false",
          config.source);
}

namespace {

RolloutFeedConfig rollout_config(const RunConfig& config, const TrainState& state) {
  const comm::Communicator& data = state.model.mesh.data();
  return {.rollout = *config.rollout,
          .shape = {.seq_len = config.data.seq_len,
                    .micro_batch = config.train.micro_batch,
                    .pack = config.data.pack,
                    .routing = config.rollout->routing_replay,
                    .data_rank = data.rank(),
                    .data_ranks = data.size(),
                    .num_domains = state.dataset.train->num_domains()},
          .inputs = state.objective->inputs(),
          .global_batch = config.train.global_batch,
          .seed = config.seed};
}

SamplerContext sampler_context(ModelState& model, const Dataset& set) {
  const RunConfig& config = model.config;
  return {.model = &model.decoder,
          .mesh = &model.mesh,
          .tokenizer = set.tokenizer,
          .reward = data::make_reward(kind(config, config.reward, "reward")),
          .max_rows = config.train.micro_batch * config.data.seq_len,
          .max_length = config.data.seq_len,
          .seed = config.seed};
}

ModelValues values_of(ModelState& model) {
  return {.queue = &model.queue,
          .store = &model.store,
          .layout = &model.layout,
          .expert_rank = model.mesh.expert().rank(),
          .expert_ranks = model.mesh.expert().size()};
}

}  // namespace

std::unique_ptr<RolloutSource> make_rollouts(TrainState& state, comm::Communicator* all) {
  const RolloutFeedConfig config = rollout_config(state.config(), state);
  const SamplerContext context = sampler_context(state.model, state.dataset);
  const data::Corpus& train = *state.dataset.train;
  if (all == nullptr) return std::make_unique<RolloutFeed>(config, context, state.feed, train);
  require(!config.inputs.old, ExitCode::kUsage,
          "{}: objective.behaviour: asynchronous runs train against the policy that sampled; set behaviour: "
          "rollout",
          state.config().source);
  // Slices that other trainers have updated travel until a forward pass reads them, and sampling has none here.
  ModelValues values = values_of(state.model);
  values.arrive = [&reducer = state.reducer] { reducer.finish_values(); };
  return std::make_unique<AsyncFeed>(config, context, state.feed, train, *all, values);
}

int num_trainers(const RunConfig& config, int ranks) {
  const int samplers = int(config.rollout->samplers), trainers = ranks - samplers;
  require(trainers > 0 && trainers % config.mesh.ep == 0 && samplers % config.mesh.ep == 0, ExitCode::kUsage,
          "{}: rollout.samplers is {} and mesh.ep {}, found {} ranks: samplers, and the ranks that are left "
          "to train, "
          "must be multiples of ep; start more ranks, or lower rollout.samplers",
          config.source, samplers, config.mesh.ep, ranks);
  return trainers;
}

std::unique_ptr<comm::Communicator> all_ranks(const RunConfig& config, comm::World& world) {
  auto all = world.everyone("rollouts");
  all->set_timeout(std::chrono::milliseconds(int64_t(1e3 * config.mesh.timeout_s)));
  return all;
}

void serve(const RunConfig& run, const Dataset& dataset, comm::World& world, comm::Communicator& all) {
  RunConfig config = run;
  set_vocab(config, dataset.vocab);
  ModelState model(config, world, config.train.micro_batch, false);
  // Trainers that keep a reference make the communicators of a second mesh, which take all ranks.
  std::optional<comm::Mesh> second;
  if (optim::make_objective<Real>(kind(config, config.objective, "objective"))->inputs().reference)
    second.emplace(world, config.mesh);
  serve_rollouts({.all = &all,
                  .trainers = all.size() - world.size(),
                  .sampler = sampler_context(model, dataset),
                  .values = values_of(model),
                  .prompts = dataset.train.get()},
                 *config.rollout);
}

}  // namespace cadre::trainer
