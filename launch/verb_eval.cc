// `cadre eval`: held-out loss of a checkpoint by domain, beside a unigram and a bigram model when asked.
// Or, with --tasks, evaluation tasks. Under mpirun the documents are shared out.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "launch/eval_tasks.h"
#include "launch/model_arguments.h"
#include "launch/option_checks.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "trainer/run/baselines.h"

namespace cadre::launch {
namespace {

struct EvalArguments {
  std::string path, split = "valid", manifest;
  int64_t tokens = 0;  // 0: the run file's eval.tokens_per_domain
  bool baselines = false, json = false;
  TaskArguments tasks;
};

constexpr int64_t kMicroBatch = 8;  // rows a forward pass; only speed and memory depend on it

using Scores = std::vector<trainer::DomainScore>;
struct EvalResult {
  uint64_t step = 0;
  Scores model, unigram, bigram;  // the latter two empty without --baselines
};

EvalResult evaluate(const EvalArguments& arguments, comm::World& world) {
  LoadedModel loaded = load_model(arguments.path, world, kMicroBatch);
  const std::string file = arguments.manifest.empty() ? loaded.config.data.manifest : arguments.manifest;
  const data::Manifest manifest = data::load_manifest(file);
  require(manifest.vocab_size <= loaded.config.model.vocab, ExitCode::kData,
          "{}: its tokenizer has {} entries, the model {}; give the data that the model was trained on", file,
          manifest.vocab_size, loaded.config.model.vocab);
  const auto corpus = data::open_corpus(manifest, arguments.split, data::Verify::kAlways);
  const int64_t tokens = arguments.tokens > 0 ? arguments.tokens : loaded.config.eval.tokens_per_domain;
  const trainer::EvalSet set = trainer::choose_documents(*corpus, tokens);
  EvalResult result{.step = loaded.step,
                    .model = trainer::evaluate(*loaded.model, *corpus, set, kMicroBatch),
                    .unigram = {},
                    .bigram = {}};
  if (arguments.baselines && world.rank() == 0) {
    const auto train = data::open_corpus(manifest, "train", data::Verify::kAlways);
    const trainer::NgramBaselines baselines(*train, manifest.vocab_size);
    result.unigram = baselines.unigram(*corpus, set);
    result.bigram = baselines.bigram(*corpus, set);
  }
  return result;
}

double percent_under(const trainer::DomainScore& model, const trainer::DomainScore& baseline) {
  return 100 * (1 - model.nats / baseline.nats);
}

void print_table(const EvalResult& result) {
  const bool baselines = !result.unigram.empty();
  fmt::print("step {}; bits per byte of held-out text\n", result.step);
  fmt::print("{:<20} {:>9} {:>11} {:>8}", "domain", "tokens", "nats/token", "model");
  if (baselines)
    fmt::print(" {:>9} {:>8} {:>14} {:>13}", "unigram", "bigram", "under unigram", "under bigram");
  fmt::print("\n");
  for (size_t k = 0; k < result.model.size(); ++k) {
    const trainer::DomainScore& m = result.model[k];
    if (m.tokens == 0) {
      fmt::print("{:<20} {:>9}  (no held-out document)\n", m.domain, 0);
      continue;
    }
    fmt::print("{:<20} {:>9} {:>11.4f} {:>8.4f}", m.domain, m.tokens, m.loss(), m.bits_per_byte());
    if (baselines) {
      fmt::print(" {:>9.4f} {:>8.4f} {:>13.1f}% {:>12.1f}%", result.unigram[k].bits_per_byte(),
                 result.bigram[k].bits_per_byte(), percent_under(m, result.unigram[k]),
                 percent_under(m, result.bigram[k]));
    }
    fmt::print("\n");
  }
}

void print_json(const EvalResult& result) {
  nlohmann::ordered_json root = {{"step", result.step}, {"domains", nlohmann::ordered_json::array()}};
  for (size_t k = 0; k < result.model.size(); ++k) {
    const trainer::DomainScore& m = result.model[k];
    nlohmann::ordered_json row = {{"name", m.domain},
                                  {"tokens", m.tokens},
                                  {"bytes", m.bytes},
                                  {"nats_per_token", m.loss()},
                                  {"bits_per_byte", m.bits_per_byte()}};
    if (!result.unigram.empty() && m.tokens > 0) {
      row["unigram_bits_per_byte"] = result.unigram[k].bits_per_byte();
      row["bigram_bits_per_byte"] = result.bigram[k].bits_per_byte();
      row["percent_under_unigram"] = percent_under(m, result.unigram[k]);
      row["percent_under_bigram"] = percent_under(m, result.bigram[k]);
    }
    root["domains"].push_back(row);
  }
  fmt::print("{}\n", root.dump());
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<EvalArguments>();
  CLI::App* verb = app.add_subcommand("eval", "Held-out loss of a checkpoint by domain, or tasks");
  verb->add_option("path", arguments->path, "A run folder (its newest checkpoint) or a checkpoint")
      ->required();
  verb->add_option("--split", arguments->split, "Split of the manifest")->capture_default_str();
  verb->add_option("--tokens", arguments->tokens,
                   "Tokens of each domain (default: the run's eval.tokens_per_domain)")
      ->check(at_least(1));
  verb->add_option("--manifest", arguments->manifest,
                   "Data to evaluate on (default: the run's data.manifest)");
  verb->add_flag("--baselines", arguments->baselines,
                 "Also a unigram and a bigram model of the training split");
  verb->add_flag("--json", arguments->json, "One JSON object instead of a table");
  add_task_options(*verb, arguments->tasks);
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) {
        if (!arguments->tasks.files.empty())
          return evaluate_tasks(arguments->tasks, arguments->path, arguments->json, world);
        const EvalResult result = evaluate(*arguments, world);
        if (world.rank() == 0) arguments->json ? print_json(result) : print_table(result);
        return int(ExitCode::kOk);
      });
    };
  });
}

}  // namespace cadre::launch
