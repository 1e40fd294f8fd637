#include "trainer/audit/lds.h"

#include <optional>

#include "parallel/base/log.h"
#include "trainer/run/influence_targets.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

// Losses of a model that was trained on some units, by query; nothing when it was asked to stop.
std::optional<std::vector<double>> outcome(const LdsConfig& config, const AuditContext& context,
                                           Journal& journal, const std::string& name, int64_t seed,
                                           const std::vector<Unit>& units, const std::vector<size_t>& members,
                                           const std::vector<std::string>& queries) {
  const std::string key = fmt::format("{} seed {}", name, seed);
  if (journal.find(key) == nullptr) {
    if (!context.keep_going()) return std::nullopt;
    const trainer::Dataset set =
        with_training_text(context.dataset, corpus_of(*context.dataset.train, units, members), nullptr);
    study::Overrides overrides = config.set;
    overrides.insert(overrides.end(),
                     {{"mixer", "natural"}, {"seed", std::to_string(seed)}, {"eval.every", "0"}});
    const auto losses = retrain(context, fmt::format("{}-{}", name, seed), set, overrides);
    if (!losses) return std::nullopt;
    journal.add(key, *losses);
    spdlog::info("trained again: {}", key);
  }
  std::vector<double> out;
  for (const std::string& query : queries) out.push_back(-journal.find(key)->at(query).get<double>());
  return out;
}

// outcomes[query][subset][seed] of all subsets; false when it was asked to stop.
bool measure_outcomes(const LdsConfig& config, const AuditContext& context, Journal& journal,
                      const std::string& name, const std::vector<Unit>& units,
                      const std::vector<std::vector<size_t>>& members,
                      const std::vector<std::string>& queries,
                      std::vector<std::vector<std::vector<double>>>& outcomes) {
  outcomes.assign(queries.size(), std::vector<std::vector<double>>(members.size()));
  for (size_t s = 0; s < members.size(); ++s) {
    for (const int64_t seed : config.seeds) {
      const auto one =
          outcome(config, context, journal, fmt::format("{}{}", name, s), seed, units, members[s], queries);
      if (!one) return false;
      for (size_t q = 0; q < queries.size(); ++q) outcomes[q][s].push_back((*one)[q]);
    }
  }
  return true;
}

}  // namespace

LdsConfig read_lds(base::Section s) {
  LdsConfig c;
  c.blocks = s.integer("blocks", c.blocks, {.min = 1});
  c.subsets = s.integer("subsets", c.subsets, {.min = 3});
  c.seeds = s.integers("seeds", c.seeds, {.min = 0});
  c.leave_out = s.integer("leave_out", c.leave_out, {.min = 0});
  c.influence.unit_passages = s.integer("unit_passages", c.influence.unit_passages, {.min = 1});
  c.influence.ekfac = s.boolean("ekfac", c.influence.ekfac);
  c.influence.ekfac_passages = s.integer("ekfac_passages", c.influence.ekfac_passages, {.min = 1});
  c.influence.ekfac_damping = s.number("ekfac_damping", c.influence.ekfac_damping, {.above = 0});
  c.set = study::read_overrides(s, "set");
  if (c.seeds.size() < 2) s.reject("seeds", "expected at least two: the noise of training has to be known");
  if (c.leave_out == 1 || c.leave_out == 2) s.reject("leave_out", "expected 0 or at least 3 units");
  s.finish();
  return c;
}

bool measure_lds(const LdsConfig& config, trainer::TrainState& state, const AuditContext& context,
                 Journal& journal, LdsResult& result) {
  trainer::RunConfig by_domain = state.config();
  by_domain.influence.targets = "domains";
  const auto targets = trainer::choose_targets(by_domain, state.dataset);
  for (const trainer::InfluenceTarget& target : targets) result.queries.push_back(target.name);
  const std::vector<Unit> units = make_units(*context.dataset.train, config.blocks);
  std::vector<std::vector<size_t>> halves;
  for (int64_t s = 0; s < config.subsets; ++s) halves.push_back(draw_half(units.size(), uint64_t(s)));
  std::vector<std::vector<std::vector<double>>> outcomes;
  if (!measure_outcomes(config, context, journal, "half", units, halves, result.queries, outcomes))
    return false;
  if (journal.find("influence") == nullptr)
    journal.add("influence", unit_influence(config.influence, state, units, targets));
  const auto influence = journal.find("influence")->get<UnitInfluence>();
  result.scores = score_lds(influence, halves, outcomes);
  for (const auto& query : outcomes) result.ceiling.push_back(study::noise_ceiling(query));
  result.subsets = config.subsets;
  result.seeds = int64_t(config.seeds.size());
  if (config.leave_out == 0) return true;
  const auto without = leave_one_out(units.size(), config.leave_out);
  if (!measure_outcomes(config, context, journal, "without", units, without, result.queries, outcomes))
    return false;
  result.leave_one_out = score_lds(influence, without, outcomes);
  return true;
}

}  // namespace cadre::audit
