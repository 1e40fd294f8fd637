#include "trainer/run/influence_targets.h"

#include <algorithm>

#include "trainer/run/evaluate.h"

namespace cadre::trainer {
namespace {

void require_apart_from_evaluation(const RunConfig& config, const data::Corpus& valid, const EvalSet& set) {
  const EvalSet judged = choose_documents(valid, config.eval.tokens_per_domain);
  std::vector<int64_t> both;
  std::set_intersection(set.documents.begin(), set.documents.end(), judged.documents.begin(),
                        judged.documents.end(), std::back_inserter(both));
  if (both.empty()) return;
  fail(
      ExitCode::kData,
      "{}: domain '{}' has too little held-out text for {} tokens of influence targets and {} of evaluation. "
      "Lower influence.tokens_per_domain or eval.tokens_per_domain, prepare with a larger --valid, or give "
      "influence.manifest",
      config.source, valid.domain_name(valid.document(both.front()).domain),
      config.influence.tokens_per_domain, config.eval.tokens_per_domain);
}

}  // namespace

EvalSet held_out_targets(const RunConfig& config, const data::Corpus& valid) {
  EvalSet set = choose_documents(valid, config.influence.tokens_per_domain, true);
  require_apart_from_evaluation(config, valid, set);
  return set;
}

const data::Corpus& target_corpus(const RunConfig& config, const Dataset& dataset) {
  require(
      dataset.target || dataset.valid, ExitCode::kData,
      "{}: influence needs target text, but the data has no held-out split; prepare with --valid, or give "
      "influence.manifest",
      config.source);
  return dataset.target ? *dataset.target : *dataset.valid;
}

std::vector<InfluenceTarget> choose_targets(const RunConfig& config, const Dataset& dataset) {
  const data::Corpus& corpus = target_corpus(config, dataset);
  require(corpus.kind() != data::SetKind::kPrompts, ExitCode::kUsage,
          "{}: influence: prompts have no answers that could be a target; give influence.manifest, a set of "
          "conversations or text with the same tokenizer",
          config.source);
  const EvalSet set = dataset.target ? choose_documents(corpus, config.influence.tokens_per_domain, true)
                                     : held_out_targets(config, corpus);
  require(!set.documents.empty(), ExitCode::kData,
          "{}: the influence targets are empty: no document in split '{}'", config.source,
          dataset.target ? config.influence.split : "valid");
  const auto with_text =
      double(std::count_if(set.tokens.begin(), set.tokens.end(), [](int64_t n) { return n > 0; }));
  std::vector<double> weight;
  for (const int64_t n : set.tokens) weight.push_back(n > 0 ? 1 / (double(n) * with_text) : 0);
  if (config.influence.targets == "mean") return {{"mean", set.documents, weight}};
  std::vector<InfluenceTarget> targets;
  for (int k = 0; k < corpus.num_domains(); ++k) {
    if (set.tokens[size_t(k)] == 0) continue;
    InfluenceTarget target{corpus.domain_name(k), {}, std::vector<double>(set.tokens.size(), 0.0)};
    target.token_weight[size_t(k)] = 1 / double(set.tokens[size_t(k)]);
    for (const int64_t d : set.documents) {
      if (corpus.document(d).domain == k) target.documents.push_back(d);
    }
    targets.push_back(std::move(target));
  }
  return targets;
}

}  // namespace cadre::trainer
