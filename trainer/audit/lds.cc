#include "trainer/audit/lds.h"

#include <optional>

#include "parallel/base/log.h"
#include "trainer/run/influence_targets.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

using nlohmann::json;

// Models that are trained on some of the units each, under every seed.
struct Subsets {
  std::string name;
  std::vector<std::vector<size_t>> members;  // units of each
};

std::string key_of(const Subsets& subsets, size_t subset, int64_t seed) {
  return fmt::format("{}{} seed {}", subsets.name, subset, seed);
}

// Held-out losses by domain; nothing when it was asked to stop.
std::optional<json> train_on(const LdsConfig& config, const AuditContext& context, const std::string& name,
                             int64_t seed, const std::vector<Unit>& units,
                             const std::vector<size_t>& members) {
  const trainer::Dataset set =
      with_training_text(context.dataset, corpus_of(*context.dataset.train, units, members), nullptr);
  study::Overrides overrides = config.set;
  overrides.insert(overrides.end(),
                   {{"mixer", "natural"}, {"seed", std::to_string(seed)}, {"eval.every", "0"}});
  const auto losses = retrain(context, fmt::format("{}-{}", name, seed), set, overrides);
  if (!losses) return std::nullopt;
  spdlog::info("trained again: {} seed {}", name, seed);
  return *losses;
}

// outcomes[query][subset][seed]
std::vector<std::vector<std::vector<double>>> outcomes_of(const LdsConfig& config, const Journal& journal,
                                                          const Subsets& subsets,
                                                          const std::vector<std::string>& queries) {
  std::vector<std::vector<std::vector<double>>> outcomes(
      queries.size(), std::vector<std::vector<double>>(subsets.members.size()));
  for (size_t s = 0; s < subsets.members.size(); ++s) {
    for (const int64_t seed : config.seeds) {
      const json& losses = *journal.find(key_of(subsets, s, seed));
      for (size_t q = 0; q < queries.size(); ++q)
        outcomes[q][s].push_back(-losses.at(queries[q]).get<double>());
    }
  }
  return outcomes;
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
  Subsets halves{"half", {}}, without{"without", {}};
  for (int64_t s = 0; s < config.subsets; ++s) halves.members.push_back(draw_half(units.size(), uint64_t(s)));
  if (config.leave_out > 0) without.members = leave_one_out(units.size(), config.leave_out);
  std::vector<std::string> keys = {"influence"};
  std::vector<std::function<std::optional<json>()>> make = {
      [&] { return json(unit_influence(config.influence, state, units, targets)); }};
  for (const Subsets* subsets : {&halves, &without}) {
    for (size_t s = 0; s < subsets->members.size(); ++s) {
      for (const int64_t seed : config.seeds) {
        keys.push_back(key_of(*subsets, s, seed));
        make.emplace_back([&, subsets, s, seed] {
          const std::string name = fmt::format("{}{}", subsets->name, s);
          return train_on(config, context, name, seed, units, subsets->members[s]);
        });
      }
    }
  }
  if (!journal.make_all(
          keys, [&](size_t i) { return make[i](); }, context.keep_going))
    return false;
  const auto outcomes = outcomes_of(config, journal, halves, result.queries);
  const auto influence = journal.find("influence")->get<UnitInfluence>();
  result.scores = score_lds(influence, halves.members, outcomes);
  for (const auto& query : outcomes) result.ceiling.push_back(study::noise_ceiling(query));
  result.subsets = config.subsets;
  result.seeds = int64_t(config.seeds.size());
  if (config.leave_out > 0) {
    result.leave_one_out =
        score_lds(influence, without.members, outcomes_of(config, journal, without, result.queries));
  }
  return true;
}

}  // namespace cadre::audit
