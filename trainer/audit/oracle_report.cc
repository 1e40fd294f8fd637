#include "trainer/audit/oracle_report.h"

#include <fmt/format.h>

#include <cmath>

#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

using nlohmann::ordered_json;

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

ordered_json oracle_json(const OracleResult& result) {
  ordered_json root = {{"step", result.step},
                       {"run_lr", result.run_lr},
                       {"clip_scale", result.clip_scale},
                       {"identity_error", result.identity_error},
                       {"passage", result.passage},
                       {"background", result.background},
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
