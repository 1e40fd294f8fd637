// `cadre rollout`: samples groups for prompts of a run file, judges them and writes them as JSONL. With the run's own
// newest checkpoint, else with the one in `init`, else with the random values that a run starts with.
#include <fmt/format.h>

#include <chrono>
#include <memory>

#include "launch/option_checks.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/rollout/rollout_line.h"
#include "trainer/rollout/sampler.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/initial_model.h"

namespace cadre::launch {
namespace {

struct RolloutArguments {
  std::string run_file, file, split = "train";
  std::vector<std::string> overrides;
  int64_t prompts = 64;
};

// Returns the weights' version.
uint64_t load_weights(const trainer::RunConfig& config, trainer::ModelState& model) {
  const std::filesystem::path own = std::filesystem::path(config.out) / "checkpoints";
  if (const auto newest = trainer::newest_checkpoint(own, model.mesh.data())) {
    trainer::TensorReader reader(*newest);
    trainer::restore_model(model, reader);
    return reader.index().step;
  }
  if (config.init.empty()) {
    if (model.mesh.data().rank() == 0)
      spdlog::warn("no checkpoint in {} and no `init`: sampling from random values", own.string());
    return 0;
  }
  const std::filesystem::path folder = trainer::find_checkpoint(config.init, model.mesh.data());
  trainer::TensorReader reader(folder);
  trainer::start_from(model, reader, folder.string());
  return 0;
}

void report(const std::vector<trainer::Rollout>& rollouts, const trainer::SampleStats& stats,
            int64_t prompts) {
  double reward = 0, stopped = 0, failed = 0;
  for (const trainer::Rollout& r : rollouts) {
    reward += r.reward;
    stopped += r.finish == trainer::Finish::kStop ? 1 : 0;
    failed += r.failed ? 1 : 0;
  }
  const double n = double(rollouts.size());
  fmt::print(
      "{} prompts, {} samples, {} new tokens (mean {:.1f}) in {:.2f} s: {:.0f} new tokens/s, {:.0f} rows/s, "
      "{} "
      "passes, judging {:.2f} s\n",
      prompts, rollouts.size(), stats.new_tokens, double(stats.new_tokens) / n, stats.seconds,
      double(stats.new_tokens) / stats.seconds, double(stats.fed_tokens) / stats.seconds, stats.passes,
      stats.reward_seconds);
  fmt::print("mean reward {:.4f}, {:.1f}% ended by themselves, {:.0f} could not be judged\n", reward / n,
             100 * stopped / n, failed);
}

int sample(const RolloutArguments& arguments, comm::World& world) {
  trainer::RunConfig config = trainer::load_run(arguments.run_file, arguments.overrides);
  require(config.rollout.has_value(), ExitCode::kUsage, "{}: no `rollout` section", config.source);
  const trainer::Dataset dataset = trainer::open_dataset(config);
  const data::Corpus* const prompts = arguments.split == "valid" ? dataset.valid.get() : dataset.train.get();
  require(prompts != nullptr && prompts->kind() == data::SetKind::kPrompts, ExitCode::kUsage,
          "{}: sampling needs a set of prompts; prepare one with --kind prompts, or give `tasks`",
          config.source);
  trainer::require_room(*prompts, config.data.seq_len);
  trainer::set_vocab(config, dataset.vocab);
  trainer::ModelState model(config, world, config.train.micro_batch, false);
  const uint64_t version = load_weights(config, model);
  trainer::Sampler sampler({.model = &model.decoder,
                            .mesh = &model.mesh,
                            .tokenizer = dataset.tokenizer,
                            .reward = data::make_reward(trainer::kind(config, config.reward, "reward")),
                            .max_rows = config.train.micro_batch * config.data.seq_len,
                            .max_length = config.data.seq_len,
                            .seed = config.seed},
                           *config.rollout);
  const int64_t count = std::min(arguments.prompts, prompts->num_documents());
  std::vector<std::vector<trainer::Rollout>> groups;
  for (int64_t d = 0; d < count; ++d)
    groups.push_back(trainer::make_group(*prompts, d, uint64_t(d), config.rollout->group));
  const auto rollouts = sampler.sample(std::move(groups), uint32_t(version), config.rollout->shape, *prompts);
  if (world.rank() != 0) return int(ExitCode::kOk);
  std::string text;
  for (const trainer::Rollout& r : rollouts)
    text += trainer::rollout_line(r, *prompts, *dataset.tokenizer, config.rollout->shape) + "\n";
  if (!arguments.file.empty()) base::write_file_atomic(arguments.file, text, ExitCode::kData);
  report(rollouts, sampler.stats(), count);
  return int(ExitCode::kOk);
}

}  // namespace

void add_rollout(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<RolloutArguments>();
  CLI::App* verb =
      app.add_subcommand("rollout", "Sample groups for prompts, judge them, write them as JSONL");
  verb->add_option("run", arguments->run_file,
                   "The run file, with rollout, reward and tasks or a set of prompts")
      ->required();
  verb->add_option("overrides", arguments->overrides, "key.sub=value ...");
  verb->add_option("-o,--output", arguments->file, "The JSONL file (default: only the summary)");
  verb->add_option("--prompts", arguments->prompts, "How many prompts, the first of the split")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option("--split", arguments->split, "train, or valid: prompts that are held out")
      ->check(CLI::IsMember({"train", "valid"}))
      ->capture_default_str();
  verb->callback([arguments, &run] {
    run = [arguments] { return run_ranks([&](comm::World& world) { return sample(*arguments, world); }); };
  });
}

}  // namespace cadre::launch
