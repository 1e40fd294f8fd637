// The table of kinds of scores.
#include "parallel/base/table.h"
#include "trainer/selection/score_kind.h"

namespace cadre::trainer {
namespace {

std::string no_settings(const ScoreOptions&) {
  return "";
}
std::string target_settings(const ScoreOptions& o) {
  return fmt::format(", targets: {}:{}, target_tokens: {}", o.targets.empty() ? "the data's" : o.targets,
                     o.target_split, o.target_tokens);
}
std::string sketch_settings(const ScoreOptions& o) {
  return target_settings(o) + fmt::format(", sketch: {}, seed: {}", o.sketch, o.seed);
}
std::string sampling_settings(const ScoreOptions& o) {
  return fmt::format(", reward: {}, samples: {}, max_tokens: {}, temperature: {}, seed: {}", o.reward,
                     o.samples, o.max_tokens, o.temperature, o.seed);
}

}  // namespace

const std::vector<ScoreKindRow>& score_kinds() {
  static const std::vector<ScoreKindRow> rows = {
      {"loss", "nats and trained tokens of each document; of pairs, the margin too", make_loss_scores,
       no_settings},
      {"influence", "per token, on each domain of the targets, along the optimizer's direction",
       make_influence_scores, target_settings},
      {"less", "cosine of gradients with each domain of the targets", make_less_scores, sketch_settings},
      {"pass_rate", "share of sampled responses to a prompt that the reward calls right", make_pass_rates,
       sampling_settings},
  };
  return rows;
}

const ScoreKindRow& find_score_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const ScoreKindRow& row : score_kinds()) {
    if (row.name == name) return row;
    names.push_back(row.name);
  }
  fail(ExitCode::kUsage, "unknown kind of scores '{}'; known: {}", name, fmt::join(names, ", "));
}

}  // namespace cadre::trainer
