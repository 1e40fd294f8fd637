#include "trainer/audit/control_run.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/files.h"
#include "trainer/study/plots.h"

namespace cadre::audit {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Lines of metrics.jsonl of one kind.
std::vector<json> read_lines(const std::filesystem::path& folder, const std::string& kind) {
  std::vector<json> lines;
  const std::string text = base::read_file(folder / "metrics.jsonl", ExitCode::kData);
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    json line = json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false);
    if (line.is_object() && line.value("kind", "") == kind) lines.push_back(std::move(line));
  }
  return lines;
}

// The first train line's weights, and the mean over the second half.
void read_weights(const std::filesystem::path& folder, ControlRun& run) {
  const std::vector<json> lines = read_lines(folder, "train");
  require(!lines.empty(), ExitCode::kData, "{}: no train lines in metrics.jsonl; lower log.every",
          folder.string());
  run.prior = lines.front().at("domain_weight").get<std::map<std::string, double>>();
  const size_t half = lines.size() / 2;
  for (size_t i = half; i < lines.size(); ++i) {
    for (const auto& [name, weight] : lines[i].at("domain_weight").items())
      run.weights[name] += weight.get<double>() / double(lines.size() - half);
  }
}

// Of the first target.
double read_deviation(const std::filesystem::path& folder) {
  std::vector<std::pair<std::vector<double>, std::vector<double>>> probes;
  for (const json& line : read_lines(folder, "probe")) {
    auto& [value, error] = probes.emplace_back();
    const json& errors = line.at("influence_se").front();
    for (const auto& [domain, influence] : line.at("influence").front().items()) {
      value.push_back(influence.get<double>());
      error.push_back(errors.at(domain).get<double>());
    }
  }
  return relative_deviation(probes);
}

study::Table table_of(const std::vector<ControlRun>& runs) {
  study::Table table = {{"control", "domain", "seed", "outcome", "measure", "deviation", "weights (prior)"}};
  for (const ControlRun& run : runs) {
    std::string weights;
    for (const auto& [name, w] : run.weights)
      weights +=
          fmt::format("{}{} {:.3f} ({:.3f})", weights.empty() ? "" : ", ", name, w, run.prior.at(name));
    table.push_back({run.control, run.domain, std::to_string(run.seed), run.passed ? "as expected" : "WRONG",
                     fmt::format("{:.3f}", run.measure),
                     std::isfinite(run.deviation) ? fmt::format("{:.2f}", run.deviation) : "-", weights});
  }
  return table;
}

std::string note_of(const std::vector<ControlRun>& runs) {
  const auto passed = std::count_if(runs.begin(), runs.end(), [](const ControlRun& r) { return r.passed; });
  return fmt::format(
      "{} of {} as expected. Measures: permuted, distance from the prior; duplicated, difference of the two "
      "over their mean; junk, its share of its "
      "prior; target, how much more its domain gained than the next. Deviation: root mean square of domains' "
      "differences from their mean over the errors of these; 1 where domains do not differ.",
      passed, runs.size());
}

}  // namespace

void read_run(const std::filesystem::path& folder, ControlRun& run) {
  read_weights(folder, run);
  run.deviation = read_deviation(folder);
}

double relative_deviation(const std::vector<std::pair<std::vector<double>, std::vector<double>>>& probes) {
  double squares = 0;
  int64_t count = 0;
  for (const auto& [value, error] : probes) {
    const double n = double(value.size());
    double mean = 0, errors = 0;
    for (size_t k = 0; k < value.size(); ++k) mean += value[k] / n, errors += error[k] * error[k];
    for (size_t k = 0; k < value.size(); ++k) {
      // value_k - mean holds value_k with the factor 1 - 1/n and each of the others with 1/n.
      const double own = error[k] * error[k];
      const double variance = own * (1 - 1 / n) * (1 - 1 / n) + (errors - own) / (n * n);
      if (variance <= 0) continue;
      squares += (value[k] - mean) * (value[k] - mean) / variance;
      ++count;
    }
  }
  return count > 0 ? std::sqrt(squares / double(count)) : NAN;
}

ordered_json controls_json(const std::vector<ControlRun>& runs) {
  ordered_json out = ordered_json::array();
  for (const ControlRun& r : runs) {
    out.push_back({{"control", r.control},
                   {"domain", r.domain},
                   {"seed", r.seed},
                   {"passed", r.passed},
                   {"measure", r.measure},
                   {"deviation", r.deviation},
                   {"prior", r.prior},
                   {"weights", r.weights}});
  }
  return out;
}

std::string controls_figure(const std::vector<ControlRun>& runs) {
  std::vector<study::DotRow> rows;
  for (const ControlRun& run : runs) {
    study::DotRow row{fmt::format("{} {}", run.control, run.seed), {}, 1, NAN};
    for (const auto& [name, weight] : run.weights) {
      row.values.push_back(weight / run.prior.at(name));
      if (name == run.domain) row.mean = row.values.back();
    }
    rows.push_back(std::move(row));
  }
  return study::dot_chart("Null controls", "weight over prior, a dot for each domain", rows);
}

std::string controls_markdown(const std::vector<ControlRun>& runs) {
  return "## Null controls\n\n" + note_of(runs) + "\n\n" + study::markdown_table(table_of(runs));
}

std::string controls_html(const std::vector<ControlRun>& runs) {
  return study::html_section("Null controls", note_of(runs), "stack",
                             study::html_table(table_of(runs)) + controls_figure(runs));
}

}  // namespace cadre::audit
