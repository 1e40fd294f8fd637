#include "trainer/audit/mixes.h"

#include <cmath>
#include <numeric>
#include <optional>

#include "data/mixer.h"
#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/audit/derived_corpus.h"
#include "trainer/audit/one_step.h"
#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

json domain_influence(const MixesConfig& config, trainer::TrainState& state) {
  const data::Corpus& text = *state.dataset.train;
  OneStep moment(state, trainer::target_corpus(state.config(), state.dataset),
                 trainer::choose_targets(state.config(), state.dataset).at(0));
  const Flat gradient = moment.target_gradient(), direction = moment.precondition(gradient);
  json out = {{"influence", json::array()}, {"gradient", json::array()}};
  std::vector<Part> all = passages(text, state.config().data.seq_len);
  for (int k = 0; k < text.num_domains(); ++k) {
    std::vector<Part> own;
    for (const Part& part : all) {
      if (part.domain == k) own.push_back(part);
    }
    double influence = 0, plain = 0;  // a domain without text has none
    if (!own.empty()) {
      const auto corpus = make_derived_corpus(text, domain_names(text), own);
      const TextGradient g =
          moment.text_gradient(*corpus, spread(corpus->num_documents(), config.domain_passages), &direction);
      influence = g.score;
      plain = dot(gradient, g.mean);
    }
    out["influence"].push_back(influence);
    out["gradient"].push_back(plain);
  }
  return out;
}

std::vector<double> natural_of(const data::MixerContext& text) {
  const double sum = std::accumulate(text.domain_tokens.begin(), text.domain_tokens.end(), 0.0);
  std::vector<double> out;
  for (const int64_t n : text.domain_tokens) out.push_back(double(n) / sum);
  return out;
}

double inner(const std::vector<double>& x, const std::vector<double>& y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

// Held-out losses after training on a mix; nothing when it was asked to stop.
std::optional<std::map<std::string, double>> train_on(const MixesResult& result, size_t mix, int64_t seed,
                                                      const AuditContext& context, study::Overrides overrides,
                                                      const study::Overrides& set) {
  json weights = json::object();
  for (size_t k = 0; k < result.domains.size(); ++k) weights[result.domains[k]] = result.mixes[mix][k];
  const fs::path file = context.out / fmt::format("mix-{}-{}.json", mix, seed);
  base::write_file_atomic(file, weights.dump(), ExitCode::kData);
  overrides.insert(overrides.end(), {{"eval.every", "0"},
                                     {"mixer", fmt::format("{{name: file, path: \"{}\"}}", file.string())},
                                     {"seed", std::to_string(seed)}});
  overrides.insert(overrides.end(), set.begin(), set.end());
  auto losses = retrain(context, fmt::format("mix-{}-{}", mix, seed), context.dataset, overrides);
  if (losses) fs::remove(file);
  return losses;
}

void compare(MixesResult& result) {
  std::vector<double> plain;
  for (const auto& mix : result.mixes) plain.push_back(inner(mix, result.gradient));
  result.pearson = study::pearson(result.predicted, result.real);
  result.spearman = study::spearman(result.predicted, result.real);
  result.gradient_pearson = study::pearson(plain, result.real);
  const auto interval = study::bootstrap95(result.mixes.size(), 1000, 1, [&](std::span<const size_t> at) {
    std::vector<double> x, y;
    for (const size_t i : at) x.push_back(result.predicted[i]), y.push_back(result.real[i]);
    return study::pearson(x, y);
  });
  result.low = interval.low, result.high = interval.high;
}

std::string note_of(const MixesResult& r) {
  return fmt::format(
      "{} mixes. Pearson {:.3f} (95% {:.3f} to {:.3f}), Spearman {:.3f}; with the plain gradient as "
      "direction, Pearson {:.3f}.",
      r.mixes.size(), r.pearson, r.low, r.high, r.spearman, r.gradient_pearson);
}

study::Table table_of(const MixesResult& r) {
  study::Table table = {{"domain", "influence per token"}};
  for (size_t k = 0; k < r.domains.size(); ++k)
    table.push_back({r.domains[k], fmt::format("{:.4g}", r.influence[k])});
  return table;
}

}  // namespace

MixesConfig read_mixes(base::Section s) {
  MixesConfig c;
  c.draw.count = s.integer("count", c.draw.count, {.min = 3});
  c.draw.seed = uint64_t(s.integer("seed", int64_t(c.draw.seed), {.min = 0}));
  const std::vector<double> scale = s.numbers("scale", {c.draw.low, c.draw.high}, {.above = 0});
  if (scale.size() != 2 || scale[0] > scale[1]) s.reject("scale", "expected two rising numbers");
  c.draw.low = scale[0], c.draw.high = scale[1];
  c.share = s.number("share", c.share, {.max = 1, .above = 0});
  c.domain_passages = s.integer("domain_passages", c.domain_passages, {.min = 1});
  c.seeds = s.integers("seeds", c.seeds, {.min = 0});
  c.set = study::read_overrides(s, "set");
  if (c.seeds.empty()) s.reject("seeds", "expected at least one");
  s.finish();
  return c;
}

bool measure_mixes(const MixesConfig& config, trainer::TrainState& state, const fs::path& checkpoint,
                   const AuditContext& context, Journal& journal, MixesResult& result) {
  const data::MixerContext text = data::mixer_context(*context.dataset.train, 1);
  result.domains = text.domains;
  result.mixes = study::draw_mixes(config.draw, natural_of(text));
  const auto steps =
      std::max<int64_t>(1, int64_t(std::llround(config.share * double(state.config().train.steps))));
  const study::Overrides from_here = {{"init", checkpoint.string()}, {"train.steps", std::to_string(steps)}};
  const size_t seeds = config.seeds.size();
  std::vector<std::string> keys = {"influence"};
  for (size_t i = 0; i < result.mixes.size(); ++i) {
    for (const int64_t seed : config.seeds) keys.push_back(fmt::format("mix {} seed {}", i, seed));
  }
  const auto make = [&](size_t at) -> std::optional<json> {
    if (at == 0) return domain_influence(config, state);
    const auto losses =
        train_on(result, (at - 1) / seeds, config.seeds[(at - 1) % seeds], context, from_here, config.set);
    if (!losses) return std::nullopt;
    spdlog::info("trained on: {}", keys[at]);
    return *losses;
  };
  if (!journal.make_all(keys, make, context.keep_going)) return false;
  result.influence = journal.find("influence")->at("influence").get<std::vector<double>>();
  result.gradient = journal.find("influence")->at("gradient").get<std::vector<double>>();
  for (size_t i = 0; i < result.mixes.size(); ++i) {
    double mean = 0;
    for (size_t s = 0; s < seeds; ++s) {
      const auto losses = journal.find(keys[1 + i * seeds + s])->get<std::map<std::string, double>>();
      for (const auto& [name, loss] : losses) mean += loss / double(losses.size() * seeds);
    }
    result.predicted.push_back(inner(result.mixes[i], result.influence));
    result.real.push_back(-mean);
  }
  compare(result);
  return true;
}

ordered_json mixes_json(const MixesResult& r) {
  return {{"domains", r.domains},
          {"influence", r.influence},
          {"influence_plain_gradient", r.gradient},
          {"mixes", r.mixes},
          {"predicted", r.predicted},
          {"minus_loss", r.real},
          {"pearson", r.pearson},
          {"pearson_low95", r.low},
          {"pearson_high95", r.high},
          {"spearman", r.spearman},
          {"pearson_plain_gradient", r.gradient_pearson}};
}

std::string mixes_figure(const MixesResult& r) {
  study::ScatterPoints points{"mixes", {}};
  for (size_t i = 0; i < r.real.size(); ++i) points.points.push_back({r.predicted[i], r.real[i]});
  return study::scatter_chart("mixes", fmt::format("Pearson {:.3f}", r.pearson),
                              "influence of the mix per token", "minus the mean loss, nats", {points});
}

std::string mixes_markdown(const MixesResult& r) {
  return "## Mixture prediction\n\n" + note_of(r) + "\n\n" + study::markdown_table(table_of(r));
}

std::string mixes_html(const MixesResult& r) {
  return study::html_section("Mixture prediction", note_of(r), "stack",
                             study::html_table(table_of(r)) + mixes_figure(r));
}

}  // namespace cadre::audit
