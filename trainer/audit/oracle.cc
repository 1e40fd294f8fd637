#include "trainer/audit/oracle.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "parallel/base/log.h"
#include "parallel/base/rng.h"
#include "trainer/audit/derived_corpus.h"
#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// `count` different documents that are not in `without`, a function of (seed, stream) alone.
std::vector<int64_t> draw(int64_t documents, int64_t count, uint64_t seed, uint64_t stream,
                          const std::set<int64_t>& without) {
  const base::Philox random(base::mix(base::hash_name("oracle"), seed));
  std::set<int64_t> seen = without;
  std::vector<int64_t> out;
  for (uint64_t i = 0; int64_t(out.size()) < count; ++i) {
    const auto d = int64_t(random.uniform(i, stream) * double(documents));
    if (seen.insert(d).second) out.push_back(d);
  }
  std::sort(out.begin(), out.end());
  return out;
}

// D' = D - u <D, u> for the unit vector u of `gradient`.
Flat without_component(const Flat& direction, const Flat& gradient) {
  const double share = dot(direction, gradient) / dot(gradient, gradient);
  Flat out(direction.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = trainer::Real(double(direction[i]) - share * double(gradient[i]));
  return out;
}

Flat mixed(const TextGradient& a, const TextGradient& b) {
  const double share = b.tokens / (a.tokens + b.tokens);
  Flat out(a.mean.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = trainer::Real((1 - share) * double(a.mean[i]) + share * double(b.mean[i]));
  return out;
}

class Oracle {
 public:
  Oracle(const OracleConfig& config, trainer::TrainState& state, OracleResult& result)
      : config_(config),
        result_(result),
        corpus_(make_derived_corpus(*state.dataset.train, domain_names(*state.dataset.train),
                                    config.passage > 0 ? passages(*state.dataset.train, config.passage)
                                                       : whole_documents(*state.dataset.train))),
        moment_(state, trainer::target_corpus(state.config(), state.dataset),
                trainer::choose_targets(state.config(), state.dataset).at(0)) {
    require(state.dataset.train->kind() == data::SetKind::kText, ExitCode::kUsage,
            "{}: the oracle takes text, not sets for post-training", state.config().source);
    const int64_t largest = *std::max_element(config.sizes.begin(), config.sizes.end());
    require(corpus_->num_documents() >= 2 * (config.background + largest), ExitCode::kData,
            "{}: {} documents are too few for a background of {} and groups of {}; make audit.oracle.passage "
            "or the groups smaller",
            state.config().source, corpus_->num_documents(), config.background, largest);
    result_.step = state.progress.step;
    result_.run_lr = state.peak_lr * state.schedule->factor(int64_t(state.progress.step),
                                                            int64_t(state.progress.total_steps));
    prepare();
  }

  OracleGroup measure(int64_t size, int64_t index) {
    const auto documents = draw(corpus_->num_documents(), size, uint64_t(config_.seed),
                                uint64_t(size) << 32 | uint64_t(index), background_set_);
    const TextGradient group = moment_.text_gradient(*corpus_, documents, &clipped_);
    const double exact = dot(clipped_, group.mean);
    // Relative to what scores of that many tokens are like, not to their sum, which may cancel.
    const double size_of_scores = std::sqrt(dot(clipped_, clipped_) * dot(group.mean, group.mean));
    OracleGroup out;
    out.identity_error = std::abs(group.score - exact) / size_of_scores;
    const double factor =
        moment_.moment_share() * result_.clip_scale * group.tokens / (group.tokens + background_.tokens);
    const auto along = [&](const Flat& d) {
      return factor * (dot(d, group.mean) - dot(d, background_.mean));
    };
    out.adam = factor * (group.score - dot(clipped_, background_.mean));
    out.unclipped = along(direction_);
    out.gradient = along(gradient_);
    const Flat both = mixed(background_, group);
    for (size_t i = 0; i < config_.lr.size(); ++i) {
      const double lr = config_.lr[i] * result_.run_lr;
      out.after.push_back(along(after_[i]));
      out.real.push_back(base_real_[i] - moment_.loss_after(both, lr, false));
      out.frozen.push_back(base_frozen_[i] - moment_.loss_after(both, lr, true));
    }
    return out;
  }

 private:
  // The background's gradient and steps, and the directions.
  void prepare() {
    const auto documents = draw(corpus_->num_documents(), config_.background, uint64_t(config_.seed), 0, {});
    background_set_.insert(documents.begin(), documents.end());
    background_ = moment_.text_gradient(*corpus_, documents, nullptr);
    result_.clip_scale = moment_.clip_scale(background_.mean);
    const bool clips = result_.clip_scale < 1;
    const auto clip = [&](const Flat& d) { return clips ? without_component(d, background_.mean) : d; };
    const Flat g = moment_.target_gradient();
    direction_ = moment_.precondition(g);
    clipped_ = clip(direction_);
    gradient_ = clip(g);
    for (const double factor : config_.lr) {
      const double lr = factor * result_.run_lr;
      base_real_.push_back(moment_.loss_after(background_.mean, lr, false));
      base_frozen_.push_back(moment_.loss_after(background_.mean, lr, true));
      after_.push_back(clip(moment_.precondition(moment_.target_gradient_after(background_.mean, lr))));
    }
  }

  const OracleConfig& config_;
  OracleResult& result_;
  std::unique_ptr<data::Corpus> corpus_;
  OneStep moment_;
  std::set<int64_t> background_set_;
  TextGradient background_;
  Flat direction_, clipped_, gradient_;
  std::vector<Flat> after_;                      // by lr
  std::vector<double> base_real_, base_frozen_;  // target loss after the background alone, by lr
};

json to_json(const OracleGroup& g) {
  return {{"adam", g.adam}, {"unclipped", g.unclipped}, {"gradient", g.gradient},      {"after", g.after},
          {"real", g.real}, {"frozen", g.frozen},       {"identity", g.identity_error}};
}
OracleGroup from_json(const json& j) {
  return {j.at("adam"),
          j.at("unclipped"),
          j.at("gradient"),
          j.at("after").get<std::vector<double>>(),
          j.at("real").get<std::vector<double>>(),
          j.at("frozen").get<std::vector<double>>(),
          j.at("identity")};
}

OracleCell summarise_cell(const std::vector<OracleGroup>& groups, size_t lr, double factor, double run_lr,
                          bool frozen) {
  OracleCell cell{.groups = int64_t(groups.size()), .lr = factor, .frozen = frozen};
  std::vector<double> predicted, unclipped, gradient, after, real;
  double xx = 0, xy = 0;
  for (const OracleGroup& g : groups) {
    predicted.push_back(g.adam);
    unclipped.push_back(g.unclipped);
    gradient.push_back(g.gradient);
    after.push_back(g.after[lr]);
    real.push_back(frozen ? g.frozen[lr] : g.real[lr]);
    xx += g.adam * g.adam;
    xy += g.adam * real.back();
  }
  cell.spearman = study::spearman(predicted, real);
  cell.pearson = study::pearson(predicted, real);
  cell.unclipped = study::spearman(unclipped, real);
  cell.gradient = study::spearman(gradient, real);
  cell.after = study::spearman(after, real);
  cell.slope = xx > 0 ? xy / xx / (factor * run_lr) : NAN;
  const auto interval = study::bootstrap95(groups.size(), 1000, 1, [&](std::span<const size_t> at) {
    std::vector<double> x, y;
    for (const size_t i : at) x.push_back(predicted[i]), y.push_back(real[i]);
    return study::spearman(x, y);
  });
  cell.low = interval.low, cell.high = interval.high;
  return cell;
}

study::Table cells_table(const OracleResult& result) {
  study::Table table = {{"documents", "groups", "lr", "lr / run's", "v", "Spearman", "95% interval",
                         "Pearson", "slope", "without clip term", "plain gradient",
                         "G after the background"}};
  const auto number = [](double x) { return std::isfinite(x) ? fmt::format("{:.3f}", x) : std::string("-"); };
  for (const OracleCell& c : result.cells) {
    table.push_back({std::to_string(c.size), std::to_string(c.groups),
                     fmt::format("{:.3g}", c.lr * result.run_lr), fmt::format("{:g}", c.lr),
                     c.frozen ? "frozen" : "real", number(c.spearman),
                     number(c.low) + " to " + number(c.high), number(c.pearson), number(c.slope),
                     number(c.unclipped), number(c.gradient), number(c.after)});
  }
  return table;
}

std::string note_of(const OracleResult& result) {
  return fmt::format(
      "Step {}, learning rate {:.3g}, clip coefficient of the background {:.3f}. The engine's scores agree "
      "with <D', g> to {:.1e} of its Cauchy-Schwarz bound.",
      result.step, result.run_lr, result.clip_scale, result.identity_error);
}

}  // namespace

OracleConfig read_oracle(base::Section s) {
  OracleConfig c;
  c.sizes = s.integers("sizes", c.sizes, {.min = 1});
  c.groups = s.integer("groups", c.groups, {.min = 3});
  c.background = s.integer("background", c.background, {.min = 1});
  c.passage = s.integer("passage", c.passage, {.min = 0});
  c.lr = s.numbers("lr", c.lr, {.above = 0});
  c.seed = s.integer("seed", c.seed, {.min = 0});
  if (c.sizes.empty()) s.reject("sizes", "expected at least one");
  if (c.lr.empty()) s.reject("lr", "expected at least one");
  if (c.passage == 1) s.reject("passage", "a document has at least 2 tokens");
  s.finish();
  return c;
}

bool measure_oracle(const OracleConfig& config, trainer::TrainState& state, Journal& journal,
                    const std::function<bool()>& keep_going, OracleResult& result) {
  Oracle oracle(config, state, result);
  for (const int64_t size : config.sizes) {
    for (int64_t i = 0; i < config.groups; ++i) {
      const std::string key = fmt::format("oracle {} {}", size, i);
      if (journal.find(key) == nullptr) {
        if (!keep_going()) return false;
        journal.add(key, to_json(oracle.measure(size, i)));
        if ((i + 1) % 50 == 0) spdlog::info("oracle: {} of {} groups of {}", i + 1, config.groups, size);
      }
      result.groups[size].push_back(from_json(*journal.find(key)));
      result.identity_error = std::max(result.identity_error, result.groups[size].back().identity_error);
    }
    for (size_t l = 0; l < config.lr.size(); ++l) {
      for (const bool frozen : {false, true}) {
        result.cells.push_back(summarise_cell(result.groups[size], l, config.lr[l], result.run_lr, frozen));
        result.cells.back().size = size;
      }
    }
  }
  return true;
}

ordered_json oracle_json(const OracleConfig& config, const OracleResult& result) {
  ordered_json root = {{"step", result.step},
                       {"run_lr", result.run_lr},
                       {"clip_scale", result.clip_scale},
                       {"identity_error", result.identity_error},
                       {"passage", config.passage},
                       {"background", config.background},
                       {"cells", ordered_json::array()}};
  for (const OracleCell& c : result.cells) {
    root["cells"].push_back({{"documents", c.size},
                             {"groups", c.groups},
                             {"lr", c.lr * result.run_lr},
                             {"lr_factor", c.lr},
                             {"v", c.frozen ? "frozen" : "real"},
                             {"spearman", c.spearman},
                             {"low95", c.low},
                             {"high95", c.high},
                             {"pearson", c.pearson},
                             {"slope", c.slope},
                             {"spearman_without_clip_term", c.unclipped},
                             {"spearman_plain_gradient", c.gradient},
                             {"spearman_g_after_background", c.after}});
  }
  return root;
}

std::string oracle_markdown(const OracleResult& result) {
  return "## One-step oracle\n\n" + note_of(result) + "\n\n" + study::markdown_table(cells_table(result));
}

std::vector<std::pair<std::string, std::string>> oracle_figures(const OracleResult& result) {
  std::vector<std::pair<std::string, std::string>> figures;
  for (size_t c = 0; c < result.cells.size(); ++c) {
    const OracleCell& cell = result.cells[c];
    const std::vector<OracleGroup>& groups = result.groups.at(cell.size);
    size_t lr = 0;  // cells of one size: each lr, real before frozen
    for (size_t b = 0; b < c; ++b)
      lr += result.cells[b].size == cell.size && !result.cells[b].frozen && cell.lr != result.cells[b].lr ? 1
                                                                                                          : 0;
    study::ScatterPoints points{"groups", {}};
    for (const OracleGroup& g : groups) {
      const double scale = cell.lr * result.run_lr;
      points.points.push_back({g.adam * scale, cell.frozen ? g.frozen[lr] : g.real[lr]});
    }
    figures.emplace_back(
        fmt::format("oracle-{}-lr{:g}-{}", cell.size, cell.lr, cell.frozen ? "frozen" : "real"),
        study::scatter_chart(fmt::format("groups of {}, {:g} times the run's step, v {}", cell.size, cell.lr,
                                         cell.frozen ? "frozen" : "real"),
                             fmt::format("Spearman {:.3f}", cell.spearman),
                             "predicted fall of the target loss, nats", "measured", {points}));
  }
  return figures;
}

std::string oracle_html(const OracleResult& result) {
  std::string plots;
  for (const auto& [name, figure] : oracle_figures(result)) plots += figure;
  return study::html_section("One-step oracle", note_of(result), "stack",
                             study::html_table(cells_table(result))) +
         study::html_section("Predicted against measured", "", "grid3", plots);
}

}  // namespace cadre::audit
