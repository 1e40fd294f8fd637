#include "trainer/audit/lds.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "parallel/base/log.h"
#include "parallel/base/rng.h"
#include "trainer/audit/derived_corpus.h"
#include "trainer/audit/ekfac.h"
#include "trainer/audit/one_step.h"
#include "trainer/study/plots.h"

namespace cadre::audit {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using trainer::Real;

struct Unit {
  int32_t domain = 0;
  std::vector<Part> parts;  // whole documents
};

// Neighbouring documents of a domain go to different blocks: shards may be sorted.
std::vector<Unit> make_units(const data::Corpus& text, int64_t blocks) {
  std::vector<Unit> units(static_cast<size_t>(text.num_domains() * blocks));
  std::vector<int64_t> seen(static_cast<size_t>(text.num_domains()), 0);
  for (const Part& part : whole_documents(text)) {
    const int64_t block = seen[size_t(part.domain)]++ % blocks;
    Unit& unit = units[size_t(part.domain * blocks + block)];
    unit.domain = part.domain;
    unit.parts.push_back(part);
  }
  std::erase_if(units, [](const Unit& unit) { return unit.parts.empty(); });
  return units;
}

std::unique_ptr<data::Corpus> corpus_of(const data::Corpus& text, const std::vector<Unit>& units,
                                        const std::vector<size_t>& members) {
  std::vector<Part> parts;
  for (const size_t u : members) parts.insert(parts.end(), units[u].parts.begin(), units[u].parts.end());
  return make_derived_corpus(text, domain_names(text), std::move(parts));
}

// `count` passages spread over a corpus, all of them when there are fewer.
std::vector<int64_t> spread(int64_t available, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < std::min(available, count); ++i)
    out.push_back(i * available / std::min(available, count));
  return out;
}

// Backward passes over sampled labels, once for the factors and once for the eigenvalues.
Ekfac<Real> fit_ekfac(trainer::TrainState& state, const data::Corpus& text, int64_t count) {
  trainer::ModelState& model = state.model;
  require(!model.config.moe && model.config.data.mask_documents, ExitCode::kUsage,
          "{}: EK-FAC needs a dense model and data.mask_documents: true; set audit.lds.ekfac: false",
          model.config.source);
  const auto corpus =
      make_derived_corpus(text, domain_names(text), passages(text, model.config.data.seq_len));
  const int64_t sequences = model.config.train.micro_batch;
  const trainer::DocumentRows rows(*corpus, spread(corpus->num_documents(), count), model.config.data.seq_len,
                                   true);
  Ekfac<Real> ekfac(model.layout);
  for (const bool factors : {true, false}) {
    for (int64_t i = 0; i < rows.micro_batches(sequences, 1); ++i) {
      Batch batch = rows.micro_batch(i, sequences, 0, 1);
      batch.targets = sample_labels(model.decoder, batch, uint64_t(i));
      model.decoder.begin_step();
      model.store.start_grads(model.queue, true);
      model.decoder.forward(batch, true);
      std::vector<Real> dlogp;
      for (const float mask : batch.loss_mask) dlogp.push_back(Real(-mask));
      model.decoder.backward(
          {dlogp.data(), {batch.num_tokens()}}, {}, [](int) {}, &ekfac);
      factors ? ekfac.add_factors(batch) : ekfac.add_eigenvalues(batch);
    }
    if (factors) ekfac.decompose();
  }
  return ekfac;
}

UnitInfluence unit_influence(const LdsConfig& config, trainer::TrainState& state,
                             const std::vector<Unit>& units,
                             const std::vector<trainer::InfluenceTarget>& targets) {
  const data::Corpus& text = *state.dataset.train;
  OneStep moment(state, trainer::target_corpus(state.config(), state.dataset), targets.at(0));
  std::optional<Ekfac<Real>> ekfac;
  if (config.ekfac) ekfac.emplace(fit_ekfac(state, text, config.ekfac_passages));
  std::map<std::string, std::vector<Flat>> directions;
  for (const trainer::InfluenceTarget& target : targets) {
    const Flat g = moment.target_gradient(target);
    directions["optimizer"].push_back(moment.precondition(g));
    if (ekfac) {
      directions["ekfac"].emplace_back(g.size());
      ekfac->solve(g, config.ekfac_damping, directions["ekfac"].back());
    }
    directions["gradient"].push_back(g);
  }
  UnitInfluence influence;
  for (const auto& [method, all] : directions) influence[method].resize(all.size());
  for (size_t u = 0; u < units.size(); ++u) {
    const auto own = corpus_of(text, units, {u});
    const auto cut =
        make_derived_corpus(*own, domain_names(text), passages(*own, state.config().data.seq_len));
    const TextGradient g =
        moment.text_gradient(*cut, spread(cut->num_documents(), config.unit_passages), nullptr);
    for (const auto& [method, all] : directions) {
      for (size_t q = 0; q < all.size(); ++q) influence[method][q].push_back(dot(all[q], g.mean));
    }
  }
  return influence;
}

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

std::vector<std::vector<size_t>> leave_one_out(size_t units, int64_t count) {
  std::vector<std::vector<size_t>> members;
  for (const int64_t out : spread(int64_t(units), count)) {
    members.emplace_back();
    for (size_t u = 0; u < units; ++u) {
      if (int64_t(u) != out) members.back().push_back(u);
    }
  }
  return members;
}

study::Table table_of(const LdsResult& r, const std::vector<LdsScore>& scores) {
  study::Table table = {{"method", "mean over targets", "95% interval", "share of the ceiling"}};
  for (const std::string& query : r.queries) table[0].push_back(query);
  const double ceiling = std::accumulate(r.ceiling.begin(), r.ceiling.end(), 0.0) / double(r.ceiling.size());
  for (const LdsScore& s : scores) {
    table.push_back({s.method, fmt::format("{:.3f}", s.mean), fmt::format("{:.3f} to {:.3f}", s.low, s.high),
                     fmt::format("{:.0f}%", 100 * s.mean / ceiling)});
    for (const double q : s.by_query) table.back().push_back(fmt::format("{:.3f}", q));
  }
  table.push_back({"noise ceiling", fmt::format("{:.3f}", ceiling), "", "100%"});
  for (const double c : r.ceiling) table.back().push_back(fmt::format("{:.3f}", c));
  return table;
}

std::string note_of(const LdsResult& r) {
  return fmt::format(
      "{} random halves, {} seeds each; Spearman of summed influence against the mean over seeds of minus "
      "the loss.",
      r.subsets, r.seeds);
}

}  // namespace

LdsConfig read_lds(base::Section s) {
  LdsConfig c;
  c.blocks = s.integer("blocks", c.blocks, {.min = 1});
  c.subsets = s.integer("subsets", c.subsets, {.min = 3});
  c.seeds = s.integers("seeds", c.seeds, {.min = 0});
  c.leave_out = s.integer("leave_out", c.leave_out, {.min = 0});
  c.unit_passages = s.integer("unit_passages", c.unit_passages, {.min = 1});
  c.ekfac = s.boolean("ekfac", c.ekfac);
  c.ekfac_passages = s.integer("ekfac_passages", c.ekfac_passages, {.min = 1});
  c.ekfac_damping = s.number("ekfac_damping", c.ekfac_damping, {.above = 0});
  c.set = study::read_overrides(s, "set");
  if (c.seeds.size() < 2) s.reject("seeds", "expected at least two: the noise of training has to be known");
  if (c.leave_out == 1 || c.leave_out == 2) s.reject("leave_out", "expected 0 or at least 3 units");
  s.finish();
  return c;
}

std::vector<size_t> draw_half(size_t units, uint64_t subset) {
  const base::Philox random(base::hash_name("lds halves"));
  std::vector<size_t> order(units);
  std::iota(order.begin(), order.end(), size_t(0));
  for (size_t i = units; i-- > 1;)
    std::swap(order[i], order[size_t(random.uniform(i, subset) * double(i + 1))]);
  order.resize(units / 2);
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<LdsScore> score_lds(const UnitInfluence& influence,
                                const std::vector<std::vector<size_t>>& members,
                                const std::vector<std::vector<std::vector<double>>>& outcomes) {
  std::vector<LdsScore> scores;
  for (const auto& entry : influence) {
    const auto& queries = entry.second;
    std::vector<std::vector<double>> predicted(queries.size()), real(queries.size());
    for (size_t q = 0; q < queries.size(); ++q) {
      for (size_t s = 0; s < members.size(); ++s) {
        double sum = 0;
        for (const size_t u : members[s]) sum += queries[q][u];
        predicted[q].push_back(sum);
        real[q].push_back(study::mean(outcomes[q][s]));
      }
    }
    const auto mean_over_queries = [&](std::span<const size_t> at, std::vector<double>* each) {
      double mean = 0;
      for (size_t q = 0; q < queries.size(); ++q) {
        std::vector<double> x, y;
        for (const size_t s : at) x.push_back(predicted[q][s]), y.push_back(real[q][s]);
        const double rho = study::spearman(x, y);
        mean += rho / double(queries.size());
        if (each != nullptr) each->push_back(rho);
      }
      return mean;
    };
    LdsScore score{.method = entry.first, .by_query = {}};
    std::vector<size_t> all(members.size());
    std::iota(all.begin(), all.end(), size_t(0));
    score.mean = mean_over_queries(all, &score.by_query);
    const auto interval = study::bootstrap95(
        members.size(), 500, 1, [&](std::span<const size_t> at) { return mean_over_queries(at, nullptr); });
    score.low = interval.low, score.high = interval.high;
    scores.push_back(std::move(score));
  }
  return scores;
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
    journal.add("influence", unit_influence(config, state, units, targets));
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

ordered_json lds_json(const LdsResult& r) {
  ordered_json root = {
      {"subsets", r.subsets}, {"seeds", r.seeds}, {"targets", r.queries}, {"noise_ceiling", r.ceiling}};
  for (const auto& [name, scores] : {std::pair{"lds", &r.scores}, {"leave_one_out", &r.leave_one_out}}) {
    root[name] = ordered_json::array();
    for (const LdsScore& s : *scores)
      root[name].push_back({{"method", s.method},
                            {"mean", s.mean},
                            {"low95", s.low},
                            {"high95", s.high},
                            {"by_target", s.by_query}});
  }
  return root;
}

std::string lds_markdown(const LdsResult& r) {
  std::string out = "## Linear datamodelling score\n\n" + note_of(r) + "\n\n" +
                    study::markdown_table(table_of(r, r.scores));
  if (!r.leave_one_out.empty())
    out += "\nLeave one unit out:\n\n" + study::markdown_table(table_of(r, r.leave_one_out));
  return out;
}

std::string lds_figure(const LdsResult& r) {
  std::vector<study::DotRow> rows;
  for (const LdsScore& s : r.scores) rows.push_back({s.method, s.by_query, s.mean, (s.high - s.low) / 2});
  rows.push_back({"noise ceiling", r.ceiling, study::mean(r.ceiling), NAN});
  return study::dot_chart("Linear datamodelling score", "Spearman, a dot for each target", rows);
}

std::string lds_html(const LdsResult& r) {
  std::string out = study::html_section("Linear datamodelling score", note_of(r), "stack",
                                        study::html_table(table_of(r, r.scores)) + lds_figure(r));
  if (r.leave_one_out.empty()) return out;
  return out + study::html_section("Leave one unit out", "The ceiling is that of the halves.", "stack",
                                   study::html_table(table_of(r, r.leave_one_out)));
}

}  // namespace cadre::audit
