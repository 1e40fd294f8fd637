// `cadre plan`: what a run would read, without training: weights, sequences and tokens by domain, and how
// often the text of each is seen; of a run that samples, prompts and how many samples they get. Mixers that learn from
// the run are shown with the weights that they start with.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "data/pair_view.h"
#include "launch/option_checks.h"
#include "launch/verbs.h"
#include "trainer/run/dataset.h"
#include "trainer/run/feed_plan.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/rollout_setup.h"

namespace cadre::launch {
namespace {

struct PlanOptions {
  std::string run_file;
  std::vector<std::string> overrides;
  int64_t steps = 0;  // 0: train.steps
  bool json = false;
};

// One plan of the feed: an update's sequences, or the prompts of a round of sampling.
struct PlannedBatch {
  std::vector<double> weights;
  std::vector<int64_t> sequences, tokens;  // (K)
  int64_t documents = 0;                   // different ones
};
struct PlannedRun {
  data::MixerContext mix;
  int64_t steps = 0, global_batch = 0, seq_len = 0;
  int64_t group = 0;             // samples of a prompt; 0: the run does not sample
  int64_t updates_per_plan = 1;  // N where it does
  std::vector<PlannedBatch> plans;
  bool text = false;   // else documents are examples, and those of a plan are its sequences
  std::string advice;  // about the order; empty: none

  PlannedBatch total(size_t first, size_t last) const {  // plans [first, last), weights of the last
    PlannedBatch sum{plans[last - 1].weights, std::vector<int64_t>(mix.domains.size()),
                     std::vector<int64_t>(mix.domains.size()), 0};
    for (size_t i = first; i < last; ++i) {
      sum.documents += plans[i].documents;
      for (size_t k = 0; k < mix.domains.size(); ++k) {
        sum.sequences[k] += plans[i].sequences[k];
        sum.tokens[k] += plans[i].tokens[k];
      }
    }
    return sum;
  }
  double epochs(size_t k, const PlannedBatch& sum) const {
    return mix.domain_tokens[k] > 0 ? double(sum.tokens[k]) / double(mix.domain_tokens[k]) : 0;
  }
  double documents_per_plan() const {
    return double(total(0, plans.size()).documents) / double(plans.size());
  }
  const char* unit() const { return group > 0 ? "prompts" : "sequences"; }
};

int64_t count_documents(const data::BatchPlan& plan) {
  std::set<int64_t> seen;
  for (const data::PlanSequence& sequence : plan.sequences) {
    for (const data::PlanSegment& s : sequence.segments) seen.insert(s.document);
  }
  return int64_t(seen.size());
}

PlannedRun plan_run(const trainer::RunConfig& run, int64_t steps) {
  const auto corpus = trainer::open_train_split(run);
  const auto objective = optim::make_objective<float>(trainer::kind(run, run.objective, "objective"));
  trainer::check_rollout(run, *corpus, objective->inputs());  // what training refuses is no plan
  const auto pairs = corpus->kind() == data::SetKind::kPreference
                         ? data::make_pair_view(*corpus, run.data.seq_len)
                         : nullptr;
  PlannedRun out{.mix = trainer::feed_context(run, *corpus),
                 .steps = steps,
                 .global_batch = run.train.global_batch,
                 .seq_len = run.data.seq_len,
                 .group = run.rollout ? run.rollout->group : 0,
                 .updates_per_plan = trainer::updates_per_plan(run),
                 .plans = {},
                 .text = corpus->kind() == data::SetKind::kText,
                 .advice = trainer::shuffle_advice(run, *corpus)};
  const auto mixer = data::make_mixer(trainer::kind(run, run.mixer, "mixer"), out.mix);
  const auto curriculum = trainer::feed_curriculum(run, *corpus);
  data::Planner planner(trainer::planner_config(run, *mixer, *corpus), pairs ? *pairs : *corpus, *curriculum);
  Progress progress{.total_steps = uint64_t(run.train.steps),
                    .total_tokens = uint64_t(trainer::planned_tokens(run, *corpus))};
  for (; progress.step < uint64_t(steps); progress.step += uint64_t(out.updates_per_plan)) {
    const std::vector<double> weights = mixer->weights(progress);
    const data::BatchPlan plan = planner.next(weights);
    for (const int64_t tokens : plan.domain_tokens) progress.tokens += uint64_t(tokens);
    out.plans.push_back({weights, plan.domain_sequences, plan.domain_tokens, count_documents(plan)});
  }
  return out;
}

void print_table(const PlannedRun& run) {
  const PlannedBatch all = run.total(0, run.plans.size());
  if (run.group > 0) {
    fmt::print(
        "{} updates of {} samples; {} rounds of sampling, each of {} prompts with {} samples for {} "
        "updates\n\n",
        run.steps, run.global_batch, run.plans.size(), run.global_batch / run.group * run.updates_per_plan,
        run.group, run.updates_per_plan);
  } else {
    fmt::print("{} steps of {} sequences of {} tokens\n\n", run.steps, run.global_batch, run.seq_len);
  }
  const bool samples = run.group > 0;
  fmt::print("{:<20} {:>14} {:>8} {:>10} {:>14} {:>8}", "domain", "tokens/epoch", "weight", run.unit(),
             "tokens", "epochs");
  fmt::print("{}\n", samples ? fmt::format(" {:>10}", "samples") : "");
  for (size_t k = 0; k < run.mix.domains.size(); ++k) {
    fmt::print("{:<20} {:>14} {:>8.4f} {:>10} {:>14} {:>8.3f}", run.mix.domains[k], run.mix.domain_tokens[k],
               all.weights[k], all.sequences[k], all.tokens[k], run.epochs(k, all));
    fmt::print("{}\n", samples ? fmt::format(" {:>10}", all.sequences[k] * run.group) : "");
  }
  fmt::print("\n{} by domain\n{:<20}", run.unit(), "steps");
  for (const std::string& name : run.mix.domains) fmt::print(" {:>10.10}", name);
  const size_t rows = std::min<size_t>(10, run.plans.size()), each = size_t(run.updates_per_plan);
  for (size_t row = 0; row < rows; ++row) {
    const size_t first = row * run.plans.size() / rows, last = (row + 1) * run.plans.size() / rows;
    fmt::print("\n{:<20}", fmt::format("{}-{}", first * each, last * each - 1));
    for (const int64_t n : run.total(first, last).sequences) fmt::print(" {:>10}", n);
  }
  fmt::print("\n");
  if (run.text) fmt::print("\ndocuments in a batch: {:.1f} in the mean\n", run.documents_per_plan());
  if (!run.advice.empty()) fmt::print("{}\n", run.advice);
}

void print_json(const PlannedRun& run) {
  using nlohmann::ordered_json;
  const PlannedBatch all = run.total(0, run.plans.size());
  const char* list = run.group > 0 ? "rounds" : "steps";
  ordered_json root = {{list, ordered_json::array()},
                       {"domains", ordered_json::array()},
                       {"global_batch", run.global_batch},
                       {"seq_len", run.seq_len}};
  if (run.text) root["documents_per_batch"] = run.documents_per_plan();
  if (run.group > 0) root.update({{"group", run.group}, {"mini_batches", run.updates_per_plan}});
  for (size_t k = 0; k < run.mix.domains.size(); ++k) {
    ordered_json domain = {{"name", run.mix.domains[k]}, {"epoch_tokens", run.mix.domain_tokens[k]},
                           {"weight", all.weights[k]},   {run.unit(), all.sequences[k]},
                           {"tokens", all.tokens[k]},    {"epochs", run.epochs(k, all)}};
    if (run.group > 0) domain["samples"] = all.sequences[k] * run.group;
    root["domains"].push_back(std::move(domain));
  }
  for (const PlannedBatch& p : run.plans)
    root[list].push_back({{"weights", p.weights}, {run.unit(), p.sequences}, {"tokens", p.tokens}});
  fmt::print("{}\n", root.dump());
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  const auto options = std::make_shared<PlanOptions>();
  CLI::App* verb =
      app.add_subcommand("plan", "Print the sample plan and domain weights of a run without training");
  verb->add_option("run", options->run_file, "The run file")->required();
  verb->add_option("overrides", options->overrides, "key.sub=value ...");
  verb->add_option("--steps", options->steps, "Updates to plan (default: train.steps)")->check(at_least(1));
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
