#include "trainer/report/page_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "trainer/report/chart.h"

namespace cadre::report {
namespace {

// Columns are at most this many averages over neighbouring samples.
constexpr size_t kColumns = 72;

std::vector<std::vector<const LoadSample*>> columns_of(const std::vector<LoadSample>& loads,
                                                       std::vector<double>& xs) {
  const size_t count = std::min(kColumns, loads.size());
  std::vector<std::vector<const LoadSample*>> columns(count);
  for (size_t c = 0; c < count; ++c) {
    for (size_t i = loads.size() * c / count; i < loads.size() * (c + 1) / count; ++i)
      columns[c].push_back(&loads[i]);
    xs.push_back(double(columns[c].front()->step));
  }
  return columns;
}

// Tokens by expert of one layer over the mean, averaged over the samples; empty when the layer is not there.
std::vector<double> relative_load(const std::vector<const LoadSample*>& samples, int layer) {
  std::vector<double> sum;
  double total = 0;
  for (const LoadSample* sample : samples) {
    const auto it = sample->layers.find(layer);
    if (it == sample->layers.end()) continue;
    sum.resize(std::max(sum.size(), it->second.size()), 0);
    for (size_t e = 0; e < it->second.size(); ++e) sum[e] += it->second[e], total += it->second[e];
  }
  for (double& s : sum) s = total > 0 ? s / (total / double(sum.size())) : NAN;
  return sum;
}

HeatMap overview_map(const RunData& run, const std::vector<std::vector<const LoadSample*>>& columns,
                     const std::vector<double>& xs, const std::vector<int>& layers) {
  HeatMap map{.title = run.name + ": fullest expert over the mean, by layer",
              .x_label = "step",
              .y_label = "layer",
              .xs = xs,
              .rows = {},
              .cells = {},
              .low = 1,
              .high = 2,
              .low_text = "1 (even)",
              .high_text = "",
              .width = 760};
  double worst = 1.5;
  for (const int layer : layers) {
    map.rows.push_back(std::to_string(layer));
    std::vector<double>& row = map.cells.emplace_back();
    for (const auto& column : columns) {
      const std::vector<double> load = relative_load(column, layer);
      row.push_back(load.empty() ? NAN : *std::max_element(load.begin(), load.end()));
      if (std::isfinite(row.back())) worst = std::max(worst, row.back());
    }
  }
  map.high = worst;
  map.high_text = fmt::format("{:.2g}", worst);
  return map;
}

HeatMap layer_map(const std::vector<std::vector<const LoadSample*>>& columns, const std::vector<double>& xs,
                  int layer) {
  HeatMap map{.title = fmt::format("layer {}: load of each expert over the mean", layer),
              .x_label = "step",
              .y_label = "expert",
              .xs = xs,
              .rows = {},
              .cells = {},
              .low = 0,
              .high = 2,
              .low_text = "0",
              .high_text = "2 and more",
              .width = 360};
  std::vector<std::vector<double>> loads;
  size_t experts = 0;
  for (const auto& column : columns)
    experts = std::max(experts, loads.emplace_back(relative_load(column, layer)).size());
  for (size_t e = 0; e < experts; ++e) {
    map.rows.push_back(std::to_string(e));
    std::vector<double>& row = map.cells.emplace_back();
    for (const auto& load : loads) row.push_back(e < load.size() ? load[e] : NAN);
  }
  return map;
}

}  // namespace

std::string domain_experts(const RunData& run) {
  std::string out;
  constexpr size_t kMostLayers = 6;
  const size_t count = run.domain_experts.size(), shown = std::min(kMostLayers, count);
  for (size_t i = 0; i < shown; ++i) {
    const auto it =
        std::next(run.domain_experts.begin(), long(shown > 1 ? i * (count - 1) / (shown - 1) : 0));
    HeatMap map{.title = fmt::format("layer {}: share of each domain's tokens over an even share", it->first),
                .x_label = "expert",
                .y_label = "domain",
                .xs = {},
                .rows = {},
                .cells = {},
                .low = 0,
                .high = 2,
                .low_text = "0",
                .high_text = "2 and more",
                .width = 360,
                .row_height = 16};
    for (const auto& [domain, tokens] : it->second) {
      double sum = 0;
      for (const double n : tokens) sum += n;
      map.rows.push_back(domain.substr(0, 8));
      std::vector<double>& row = map.cells.emplace_back();
      for (const double n : tokens) row.push_back(sum > 0 ? n * double(tokens.size()) / sum : NAN);
      while (map.xs.size() < tokens.size()) map.xs.push_back(double(map.xs.size()));
    }
    for (auto& row : map.cells) row.resize(map.xs.size(), NAN);
    out += heat_map(map);
  }
  return out;
}

std::string expert_load(const RunData& run) {
  std::set<int> all;
  for (const LoadSample& sample : run.loads) {
    for (const auto& [layer, tokens] : sample.layers) all.insert(layer);
  }
  if (all.empty()) return "";
  const std::vector<int> layers(all.begin(), all.end());
  std::vector<double> xs;
  const auto columns = columns_of(run.loads, xs);
  std::string out = heat_map(overview_map(run, columns, xs, layers)), details;
  constexpr size_t kMostLayers = 8;  // spread over the depth; the page would be too large with all of them
  const size_t shown = std::min(kMostLayers, layers.size());
  for (size_t i = 0; i < shown; ++i) {
    const size_t at = shown > 1 ? i * (layers.size() - 1) / (shown - 1) : 0;
    details += heat_map(layer_map(columns, xs, layers[at]));
  }
  return out +
         fmt::format(
             "<details><summary>{} of {} layers, by expert</summary><div class='grid3'>{}</div></details>",
             shown, layers.size(), details);
}

}  // namespace cadre::report
