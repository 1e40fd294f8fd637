// `cadre score`: scores of documents by a checkpoint, for selectors and curricula. Under mpirun the documents are shared
// out; the same command goes on after a stop.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "launch/option_checks.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "trainer/selection/score_job.h"

namespace cadre::launch {
namespace {

struct ScoreArguments {
  trainer::ScoreJob job;
  bool json = false;
};

void print(const trainer::ScoreSummary& s, bool json) {
  if (json) {
    nlohmann::ordered_json root = {{"name", s.name},           {"model", s.model},
                                   {"shards", s.shards},       {"skipped", s.skipped},
                                   {"documents", s.documents}, {"columns", nlohmann::json::object()}};
    for (size_t c = 0; c < s.mean.size(); ++c) {
      root["columns"][s.columns[c]] = {
          {"mean", s.mean[c]}, {"sd", s.deviation[c]}, {"min", s.least[c]}, {"max", s.most[c]}};
    }
    fmt::print("{}\n", root.dump());
    return;
  }
  fmt::print("scores '{}': {} shards written, {} were there, {} documents\n", s.name, s.shards, s.skipped,
             s.documents);
  if (s.mean.empty()) return;
  fmt::print("{:<20} {:>12} {:>12} {:>12} {:>12}\n", "column", "mean", "sd", "min", "max");
  for (size_t c = 0; c < s.mean.size(); ++c) {
    fmt::print("{:<20} {:>12.5g} {:>12.5g} {:>12.5g} {:>12.5g}\n", s.columns[c], s.mean[c], s.deviation[c],
               s.least[c], s.most[c]);
  }
}

std::string kinds() {
  std::string text = "What to score: ";
  for (const trainer::ScoreKindRow& row : trainer::score_kinds())
    text += fmt::format("\n  {:<10} {}", row.name, row.about);
  return text;
}

}  // namespace

void add_score(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<ScoreArguments>();
  trainer::ScoreJob& job = arguments->job;
  trainer::ScoreOptions& o = job.options;
  CLI::App* verb =
      app.add_subcommand("score", "Score documents with a checkpoint, for selectors and curricula");
  verb->add_option("path", job.checkpoint, "A run folder (its newest checkpoint) or a checkpoint")
      ->required();
  verb->add_option("--manifest", job.manifest, "Data to score (default: the run's data.manifest)");
  verb->add_option("--split", job.split, "Split of the manifest")->capture_default_str();
  verb->add_option("--name", job.name, "The folder scores/NAME beside the shards (default: the kind)");
  verb->add_option("--kind", o.kind, kinds())->capture_default_str();
  verb->add_option("--targets", o.targets, "Manifest of target text (default: the data's own)");
  verb->add_option("--target-split", o.target_split, "Split of the target text")->capture_default_str();
  verb->add_option("--target-tokens", o.target_tokens, "Tokens of each domain of the targets")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option("--sketch", o.sketch, "Places of a sketched gradient; 0: whole gradients")
      ->capture_default_str()
      ->check(CLI::Range(int64_t(0), int64_t(1) << 31));
  verb->add_option("--reward", o.reward, "For pass_rate, as in a run file")->capture_default_str();
  verb->add_option("--samples", o.samples, "Responses to each prompt")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option("--max-tokens", o.max_tokens, "Of a response")->capture_default_str()->check(at_least(1));
  verb->add_option("--temperature", o.temperature, "Of the samples")
      ->capture_default_str()
      ->check(between(0.0, 100.0));
  verb->add_option("--seed", o.seed, "Of sketches and samples")->check(at_least(0))->capture_default_str();
  verb->add_flag("--json", arguments->json, "One JSON object instead of a table");
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) {
        const trainer::ScoreSummary summary =
            trainer::score_documents(arguments->job, world, [&](const std::string& line) {
              if (!arguments->json) fmt::print("{}\n", line);
            });
        if (world.rank() == 0) print(summary, arguments->json);
        return int(ExitCode::kOk);
      });
    };
  });
}

}  // namespace cadre::launch
