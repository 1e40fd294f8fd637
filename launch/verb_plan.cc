// `cadre plan`: what a run would read, without training: weights, sequences and tokens by domain, and how
// often the text of each is seen. Mixers that learn from the run are shown with the weights that they start
// with.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/curriculum.h"
#include "data/manifest.h"
#include "data/mixer.h"
#include "data/pair_view.h"
#include "data/planner.h"
#include "data/selector.h"
#include "launch/verbs.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/run_config.h"

namespace cadre::launch {
namespace {

struct PlanOptions {
  std::string run_file;
  std::vector<std::string> overrides;
  int64_t steps = 0;  // 0: train.steps
  bool json = false;
};

struct PlannedStep {
  std::vector<double> weights;
  std::vector<int64_t> sequences, tokens;  // (K)
};
struct PlannedRun {
  data::MixerContext mix;
  int64_t global_batch = 0, seq_len = 0;
  std::vector<PlannedStep> steps;

  PlannedStep total(size_t first, size_t last) const {  // steps [first, last), weights of the last
    PlannedStep sum{steps[last - 1].weights, std::vector<int64_t>(mix.domains.size()),
                    std::vector<int64_t>(mix.domains.size())};
    for (size_t i = first; i < last; ++i) {
      for (size_t k = 0; k < mix.domains.size(); ++k) {
        sum.sequences[k] += steps[i].sequences[k];
        sum.tokens[k] += steps[i].tokens[k];
      }
    }
    return sum;
  }
  double epochs(size_t k, const PlannedStep& sum) const {
    return mix.domain_tokens[k] > 0 ? double(sum.tokens[k]) / double(mix.domain_tokens[k]) : 0;
  }
};

PlannedRun plan_run(const trainer::RunConfig& run, int64_t steps) {
  const data::Manifest manifest = data::load_manifest(run.data.manifest);
  const auto verify = run.data.verify == "size" ? data::Verify::kSize : data::Verify::kAlways;
  const auto selector = data::make_selector(trainer::kind(run, run.selector, "selector"));
  const auto corpus =
      data::select_documents(*selector, data::open_corpus(manifest, "train", verify), run.seed);
  const auto pairs = corpus->kind() == data::SetKind::kPreference
                         ? data::make_pair_view(*corpus, run.data.seq_len)
                         : nullptr;
  const data::Corpus& units = pairs ? *pairs : *corpus;
  PlannedRun out{data::mixer_context(*corpus, run.train.steps * run.train.global_batch * run.data.seq_len),
                 run.train.global_batch,
                 run.data.seq_len,
                 {}};
  const auto mixer = data::make_mixer(trainer::kind(run, run.mixer, "mixer"), out.mix);
  const auto curriculum = data::make_curriculum(trainer::kind(run, run.curriculum, "curriculum"), &units);
  data::Planner planner({.seed = run.seed,
                         .global_batch = run.train.global_batch,
                         .seq_len = run.data.seq_len,
                         .pack = run.data.pack,
                         .max_epochs = mixer->max_epochs(),
                         .total_tokens = out.mix.total_tokens},
                        units, *curriculum);
  Progress progress{.total_steps = uint64_t(run.train.steps), .total_tokens = uint64_t(out.mix.total_tokens)};
  for (; progress.step < uint64_t(steps); ++progress.step) {
    const std::vector<double> weights = mixer->weights(progress);
    const data::BatchPlan plan = planner.next(weights);
    for (const int64_t tokens : plan.domain_tokens) progress.tokens += uint64_t(tokens);
    out.steps.push_back({weights, plan.domain_sequences, plan.domain_tokens});
  }
  return out;
}

void print_table(const PlannedRun& run) {
  const PlannedStep all = run.total(0, run.steps.size());
  fmt::print("{} steps of {} sequences of {} tokens\n\n", run.steps.size(), run.global_batch, run.seq_len);
  fmt::print("{:<20} {:>14} {:>8} {:>10} {:>14} {:>8}\n", "domain", "tokens/epoch", "weight", "sequences",
             "tokens", "epochs");
  for (size_t k = 0; k < run.mix.domains.size(); ++k) {
    fmt::print("{:<20} {:>14} {:>8.4f} {:>10} {:>14} {:>8.3f}\n", run.mix.domains[k],
               run.mix.domain_tokens[k], all.weights[k], all.sequences[k], all.tokens[k], run.epochs(k, all));
  }
  fmt::print("\nsequences by domain\n{:<20}", "steps");
  for (const std::string& name : run.mix.domains) fmt::print(" {:>10.10}", name);
  const size_t rows = std::min<size_t>(10, run.steps.size());
  for (size_t row = 0; row < rows; ++row) {
    const size_t first = row * run.steps.size() / rows, last = (row + 1) * run.steps.size() / rows;
    fmt::print("\n{:<20}", fmt::format("{}-{}", first, last - 1));
    for (const int64_t n : run.total(first, last).sequences) fmt::print(" {:>10}", n);
  }
  fmt::print("\n");
}

void print_json(const PlannedRun& run) {
  using nlohmann::ordered_json;
  const PlannedStep all = run.total(0, run.steps.size());
  ordered_json root = {{"steps", ordered_json::array()},
                       {"domains", ordered_json::array()},
                       {"global_batch", run.global_batch},
                       {"seq_len", run.seq_len}};
  for (size_t k = 0; k < run.mix.domains.size(); ++k) {
    root["domains"].push_back({{"name", run.mix.domains[k]},
                               {"epoch_tokens", run.mix.domain_tokens[k]},
                               {"weight", all.weights[k]},
                               {"sequences", all.sequences[k]},
                               {"tokens", all.tokens[k]},
                               {"epochs", run.epochs(k, all)}});
  }
  for (const PlannedStep& s : run.steps) {
    root["steps"].push_back({{"weights", s.weights}, {"sequences", s.sequences}, {"tokens", s.tokens}});
  }
  fmt::print("{}\n", root.dump());
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  const auto options = std::make_shared<PlanOptions>();
  CLI::App* verb =
      app.add_subcommand("plan", "Print the sample plan and domain weights of a run without training");
  verb->add_option("run", options->run_file, "The run file")->required();
  verb->add_option("overrides", options->overrides, "key.sub=value ...");
  verb->add_option("--steps", options->steps, "Steps to plan (default: train.steps)")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--json", options->json, "One JSON object instead of tables");
  verb->callback([options, &run] {
    run = [options] {
      const auto config = trainer::load_run(options->run_file, options->overrides);
      const PlannedRun planned = plan_run(config, options->steps > 0 ? options->steps : config.train.steps);
      options->json ? print_json(planned) : print_table(planned);
      return int(ExitCode::kOk);
    };
  });
}

}  // namespace cadre::launch
