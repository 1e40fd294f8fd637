#include "trainer/run/run_config.h"

#include <cinttypes>
#include <cstdio>

#include "data/curriculum.h"
#include "data/mixer.h"
#include "data/reward.h"
#include "data/selector.h"
#include "optim/objective.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "trainer/model/rope_scaling.h"
#include "trainer/run/context_check.h"
#include "trainer/run/expert_shares.h"

namespace cadre::trainer {
namespace {

DataConfig read_data(base::Section s) {
  DataConfig c;
  c.manifest = s.text("manifest", c.manifest);
  c.seq_len = s.integer("seq_len", c.seq_len, {.min = 1, .max = 1 << 20});
  c.pack = s.boolean("pack", c.pack);
  c.mask_documents = s.boolean("mask_documents", c.mask_documents);
  c.shuffle = s.choice("shuffle", c.shuffle, {"documents", "pieces"});
  c.prefetch = int(s.integer("prefetch", c.prefetch, {.min = 0, .max = 1000}));
  c.verify = s.choice("verify", c.verify, {"always", "size"});
  s.finish();
  return c;
}

TrainConfig read_train(base::Section s) {
  TrainConfig c;
  c.steps = s.integer("steps", c.steps, {.min = 1});
  c.global_batch = s.integer("global_batch", c.global_batch, {.min = 1});
  c.micro_batch = s.integer("micro_batch", c.micro_batch, {.min = 1});
  c.clip_norm = s.number("clip_norm", c.clip_norm, {.min = 0});
  const std::string recompute =
      s.choice("activation_recompute", recompute_name(c.activation_recompute), {"none", "selective", "full"});
  for (const Recompute kind : kRecomputes) {
    if (recompute == recompute_name(kind)) c.activation_recompute = kind;
  }
  c.max_skips = int(s.integer("max_skips", c.max_skips, {.min = 1, .max = 1000000}));
  c.max_minutes = s.number("max_minutes", c.max_minutes, {.min = 0});
  s.finish();
  return c;
}

EvalConfig read_eval(base::Section s) {
  EvalConfig c;
  c.every = s.integer("every", c.every, {.min = 0});
  c.tokens_per_domain = s.integer("tokens_per_domain", c.tokens_per_domain, {.min = 1});
  s.finish();
  return c;
}

CheckpointConfig read_checkpoint(base::Section s) {
  CheckpointConfig c;
  c.every = s.integer("every", c.every, {.min = 0});
  c.keep = int(s.integer("keep", c.keep, {.min = 1, .max = 1000000}));
  c.async = s.boolean("async", c.async);
  s.finish();
  return c;
}

LogConfig read_log(base::Section s) {
  LogConfig c;
  c.every = s.integer("every", c.every, {.min = 1});
  c.tensorboard = s.boolean("tensorboard", c.tensorboard);
  c.prometheus = int(s.integer("prometheus", c.prometheus, {.min = 0, .max = 65535}));
  c.prometheus_address = s.text("prometheus_address", c.prometheus_address);
  s.finish();
  return c;
}

ProfileConfig read_profile(base::Section s) {
  ProfileConfig c;
  const std::string steps = s.text("steps", "");
  uint64_t first = 0, last = 0;
  char rest = 0;
  const bool read = std::sscanf(steps.c_str(), "%" SCNu64 "-%" SCNu64 "%c", &first, &last, &rest) == 2;
  if (!steps.empty() && (!read || first < 1 || last < first))
    s.reject("steps", fmt::format("found '{}', expected FIRST-LAST such as 10-12", steps));
  s.finish();
  c.first = first;
  c.last = last;
  return c;
}

// A missing section leaves a null node: YAML nodes that do not exist cannot be assigned.
void read_kind(base::Section& root, const std::string& name, YAML::Node& node) {
  const base::Section section = root.section(name);
  if (section.node().IsDefined()) node = section.node();
}

// Makes one of each, so that a typo inside a kind's section is found before anything starts. What they need
// to know of the data and the model is not known yet, so sizes are small made-up ones.
void validate(const RunConfig& c) {
  constexpr double kCountable = 9e18;  // int64
  require(double(c.train.steps) * double(c.train.global_batch) * double(c.data.seq_len) < kCountable,
          ExitCode::kUsage,
          "{}: train.steps x train.global_batch x data.seq_len is more tokens than can be counted; make one "
          "of them smaller",
          c.source);
  const base::Section objective = kind(c, c.objective, "objective");
  // What has no loop is refused here, and not in the middle of the first step.
  if (optim::make_objective<float>(objective)->inputs().advantage && !c.rollout)
    objective.reject("name", "trains on sampled responses: the run file needs a `rollout` section");
  data::make_reward(kind(c, c.reward, "reward"));
  optim::make_schedule(kind(c, c.schedule, "schedule"));
  optim::make_optimizer<float>(kind(c, c.optim, "optim"), {});
  data::make_curriculum(kind(c, c.curriculum, "curriculum"), nullptr);
  data::make_selector(kind(c, c.selector, "selector"));
  data::make_mixer(kind(c, c.mixer, "mixer"), {{"a", "b"}, {int64_t(1) << 40, int64_t(1) << 40}, 1, 0, true});
  check_context(c);
}

YAML::Node kind_node(const YAML::Node& node, const char* fallback) {
  if (node.IsDefined() && !node.IsNull()) return YAML::Clone(node);
  YAML::Node result;
  result["name"] = fallback;
  return result;
}

// Shortest text that reads back as the same number.
std::string number(double x) {
  return fmt::format("{}", x);
}
const char* word(bool x) {
  return x ? "true" : "false";
}

YAML::Node model_node(const ModelConfig& m) {
  YAML::Node n;
  n["vocab"] = m.vocab;
  n["dim"] = m.dim;
  n["layers"] = m.layers;
  n["heads"] = m.heads;
  n["kv_heads"] = m.kv_heads;
  n["head_dim"] = m.head_dim;
  n["ffn_width"] = m.ffn_width;
  n["first_dense_layers"] = m.first_dense_layers;
  n["moe_every"] = m.moe_every;
  n["qk_norm"] = qk_norm_name(m.qk_norm);
  n["tie_head"] = word(m.tie_head);
  n["norm_eps"] = number(m.norm_eps);
  n["init_std"] = number(m.init_std);
  n["rope"] = rope_node(m.rope);
  return n;
}

YAML::Node moe_node(const moe::MoeConfig& m) {
  YAML::Node n;
  n["num_experts"] = m.num_experts;
  n["top_k"] = m.top_k;
  n["width"] = m.width;
  n["num_shared"] = m.num_shared;
  n["router"] = kind_node(m.router, "softmax_topk");
  n["balance"] = kind_node(m.balance, "global_batch");
  n["z_loss"] = number(m.z_loss);
  n["capacity_factor"] = number(m.capacity_factor);
  n["dispatch"] = moe::name_of(m.dispatch);
  n["shares"] = moe::name_of(m.shares);
  n["rebalance"] = m.rebalance < 0 ? "auto" : std::to_string(m.rebalance);
  n["drop"] = m.drop == moe::DropPolicy::kPosition ? "position" : "lowest_probability";
  return n;
}

}  // namespace

base::Section kind(const RunConfig& config, const YAML::Node& node, const std::string& name) {
  return base::Section(node, config.source, name);
}

RunConfig read_run(base::Section root) {
  RunConfig c;
  c.source = root.source();
  c.seed = uint64_t(root.integer("seed", int64_t(c.seed), {.min = 0}));
  c.out = root.text("out", c.out);
  c.init = root.text("init", c.init);
  c.device = root.choice("device", c.device, {"auto", "cpu", "cuda"});
  c.fp32 = root.choice("precision", "auto", {"auto", "fp32"}) == "fp32";
  c.threads = int(root.integer("threads", c.threads, {.min = 0, .max = 1024}));
  c.data = read_data(root.section("data"));
  c.model = read_model(root.section("model"));
  if (root.has("moe")) c.moe = moe::read_moe(root.section("moe"));
  c.mesh = comm::read_mesh(root.section("mesh"));
  c.train = read_train(root.section("train"));
  c.eval = read_eval(root.section("eval"));
  c.checkpoint = read_checkpoint(root.section("checkpoint"));
  c.log = read_log(root.section("log"));
  c.spikes = read_spikes(root.section("spikes"));
  c.profile = read_profile(root.section("profile"));
  c.influence = read_influence(root.section("influence"));
  read_kind(root, "mixer", c.mixer);
  read_kind(root, "curriculum", c.curriculum);
  read_kind(root, "selector", c.selector);
  read_kind(root, "objective", c.objective);
  read_kind(root, "optim", c.optim);
  read_kind(root, "schedule", c.schedule);
  read_kind(root, "reward", c.reward);
  read_kind(root, "rollout", c.rollout_node);
  read_kind(root, "tasks", c.tasks_node);
  // What trains on samples is VESPO unless the file names another.
  if (root.has("rollout") && (c.objective.IsNull() || (c.objective.IsMap() && !c.objective["name"])))
    c.objective["name"] = "vespo";
  if (root.has("rollout")) c.rollout = read_rollout(kind(c, c.rollout_node, "rollout"));
  if (root.has("tasks")) c.tasks = data::read_task_set(kind(c, c.tasks_node, "tasks"));
  root.finish();
  validate(c);
  settle_expert_shares(c);
  return c;
}

void set_vocab(RunConfig& config, int64_t tokenizer_vocab) {
  if (config.model.vocab == 0) config.model.vocab = tokenizer_vocab;
  require(config.init.empty() || config.model.vocab >= tokenizer_vocab, ExitCode::kUsage,
          "{}: the model of init, {}, has a vocabulary of {}, but the tokenizer of the data has {} entries; "
          "prepare the data with that model's tokenizer",
          config.source, config.init, config.model.vocab, tokenizer_vocab);
  require(config.model.vocab >= tokenizer_vocab, ExitCode::kUsage,
          "{}: model.vocab is {}, but the tokenizer of the data has {} entries; raise it or leave it out",
          config.source, config.model.vocab, tokenizer_vocab);
}

std::string resolved_yaml(const RunConfig& c) {
  YAML::Node n;
  n["seed"] = c.seed;
  n["out"] = c.out;
  n["init"] = c.init;
  n["device"] = c.device;
  n["precision"] = c.fp32 ? "fp32" : "auto";
  n["threads"] = c.threads;
  n["data"]["manifest"] = c.data.manifest;
  n["data"]["seq_len"] = c.data.seq_len;
  n["data"]["pack"] = word(c.data.pack);
  n["data"]["mask_documents"] = word(c.data.mask_documents);
  n["data"]["shuffle"] = c.data.shuffle;
  n["data"]["prefetch"] = c.data.prefetch;
  n["data"]["verify"] = c.data.verify;
  n["mixer"] = kind_node(c.mixer, "natural");
  n["curriculum"] = kind_node(c.curriculum, "none");
  n["selector"] = kind_node(c.selector, "none");
  n["model"] = model_node(c.model);
  if (c.moe) n["moe"] = moe_node(*c.moe);
  n["mesh"]["ep"] = c.mesh.ep;
  n["mesh"]["cp"] = c.mesh.cp;
  n["mesh"]["zero"] = c.mesh.zero;
  n["mesh"]["timeout_s"] = c.mesh.timeout_s;
  n["objective"] = kind_node(c.objective, "cross_entropy");
  n["optim"] = kind_node(c.optim, "adamw");
  n["schedule"] = kind_node(c.schedule, "wsd");
  if (c.rollout) {
    n["reward"] = kind_node(c.reward, "exact_match");
    n["rollout"] = YAML::Clone(c.rollout_node);
  }
  if (c.tasks) n["tasks"] = YAML::Clone(c.tasks_node);
  n["train"]["steps"] = c.train.steps;
  n["train"]["global_batch"] = c.train.global_batch;
  n["train"]["micro_batch"] = c.train.micro_batch;
  n["train"]["clip_norm"] = number(c.train.clip_norm);
  n["train"]["activation_recompute"] = recompute_name(c.train.activation_recompute);
  n["train"]["max_skips"] = c.train.max_skips;
  n["train"]["max_minutes"] = number(c.train.max_minutes);
  n["eval"]["every"] = c.eval.every;
  n["eval"]["tokens_per_domain"] = c.eval.tokens_per_domain;
  n["checkpoint"]["every"] = c.checkpoint.every;
  n["checkpoint"]["keep"] = c.checkpoint.keep;
  n["checkpoint"]["async"] = word(c.checkpoint.async);
  n["log"]["every"] = c.log.every;
  n["log"]["tensorboard"] = word(c.log.tensorboard);
  n["log"]["prometheus"] = c.log.prometheus;
  n["log"]["prometheus_address"] = c.log.prometheus_address;
  n["spikes"]["policy"] = name_of(c.spikes.policy);
  n["spikes"]["z"] = number(c.spikes.z);
  n["spikes"]["window"] = c.spikes.window;
  n["spikes"]["shadow"] = word(c.spikes.shadow);
  n["spikes"]["max_rollbacks"] = c.spikes.max_rollbacks;
  if (c.profile.last > 0) n["profile"]["steps"] = fmt::format("{}-{}", c.profile.first, c.profile.last);
  n["influence"] = influence_node(c.influence);
  return YAML::Dump(n) + "\n";
}

}  // namespace cadre::trainer
