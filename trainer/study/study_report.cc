#include "trainer/study/study_report.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/files.h"
#include "trainer/study/plots.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string number(double x) {
  return std::isfinite(x) ? fmt::format("{:.4f}", x) : "-";
}
std::string interval(const Summary& s) {
  return std::isfinite(s.half95) ? fmt::format("{:.4f} to {:.4f}", s.mean - s.half95, s.mean + s.half95)
                                 : "-";
}
ordered_json finite(double x) {
  return std::isfinite(x) ? ordered_json(x) : ordered_json();
}

const char* unit_of(const std::string& metric) {
  if (metric == "eval_reward") return "reward of the likeliest response, mean over domains";
  return metric == "eval_bpb" ? "bits per byte, mean over domains" : "nats per token, mean over domains";
}

// Mean over the seeds at the steps that all of them have.
std::vector<std::pair<double, double>> mean_curve(const std::vector<const RunResult*>& runs) {
  std::map<double, std::pair<double, size_t>> sums;
  for (const RunResult* run : runs) {
    for (const auto& [step, value] : run->curve) {
      sums[step].first += value;
      ++sums[step].second;
    }
  }
  std::vector<std::pair<double, double>> curve;
  for (const auto& [step, sum] : sums) {
    if (sum.second == runs.size()) curve.emplace_back(step, sum.first / double(sum.second));
  }
  return curve;
}

// The step at which a curve first reaches `level`, by straight lines between its points.
double step_at(const std::vector<std::pair<double, double>>& curve, double level, bool rising) {
  for (size_t i = 0; i < curve.size(); ++i) {
    if (rising ? curve[i].second < level : curve[i].second > level) continue;
    if (i == 0) return curve[0].first;
    const auto& [x0, y0] = curve[i - 1];
    const auto& [x1, y1] = curve[i];
    return x0 + (x1 - x0) * (y0 - level) / (y0 - y1);
  }
  return NAN;
}

void summarise_cell(const std::vector<const RunResult*>& runs, CellResult& cell) {
  std::vector<double> worst;
  std::map<std::string, std::vector<double>> domains;
  for (const RunResult* run : runs) {
    cell.seeds.push_back(run->seed);
    cell.values.push_back(run->value);
    worst.push_back(run->worst);
    for (const auto& [name, value] : run->domains) domains[name].push_back(value);
  }
  cell.summary = summarise(cell.values);
  cell.worst = summarise(worst);
  for (const auto& [name, values] : domains) cell.domains[name] = summarise(values);
  cell.curve = mean_curve(runs);
}

// Seed by seed, so that what a seed does to all cells falls out.
void compare(const CellResult& first, bool higher_is_better, CellResult& cell) {
  std::vector<double> differences;
  for (size_t i = 0; i < cell.seeds.size(); ++i) {
    const auto at = std::find(first.seeds.begin(), first.seeds.end(), cell.seeds[i]);
    if (at != first.seeds.end())
      differences.push_back(cell.values[i] - first.values[size_t(at - first.seeds.begin())]);
  }
  cell.difference = summarise(differences);
  cell.steps_to_first =
      first.curve.empty() ? NAN : step_at(cell.curve, first.curve.back().second, higher_is_better);
}

std::string seeds_text(const CellResult& cell) {
  std::string out;
  for (size_t i = 0; i < cell.values.size(); ++i) {
    out += fmt::format("{}{}{:.4f}", out.empty() ? "" : ", ",
                       cell.seeds[i].empty() ? "" : cell.seeds[i] + ": ", cell.values[i]);
  }
  return out;
}

Table main_table(const std::vector<CellResult>& cells) {
  Table table = {{"run", "n", "mean", "sd", "95% interval", "worst domain", "minus the first",
                  "its 95% interval", "steps to the first's end", "every seed", "failed"}};
  for (const CellResult& c : cells) {
    table.push_back({c.name, std::to_string(c.summary.n), number(c.summary.mean), number(c.summary.sd),
                     interval(c.summary), number(c.worst.mean), number(c.difference.mean),
                     interval(c.difference),
                     std::isfinite(c.steps_to_first) ? fmt::format("{:.0f}", c.steps_to_first) : "-",
                     seeds_text(c), std::to_string(c.failed.size())});
  }
  return table;
}

Table domain_table(const std::vector<CellResult>& cells) {
  Table table = {{"run"}};
  for (const CellResult& c : cells) {
    for (const auto& [name, summary] : c.domains) {
      if (std::find(table[0].begin(), table[0].end(), name) == table[0].end()) table[0].push_back(name);
    }
  }
  for (const CellResult& c : cells) {
    std::vector<std::string> row = {c.name};
    for (size_t i = 1; i < table[0].size(); ++i) {
      const auto at = c.domains.find(table[0][i]);
      row.push_back(at == c.domains.end()
                        ? "-"
                        : fmt::format("{} +- {}", number(at->second.mean), number(at->second.sd)));
    }
    table.push_back(std::move(row));
  }
  return table;
}

Table failure_table(const std::vector<RunResult>& results) {
  Table table = {{"run", "what happened"}};
  for (const RunResult& r : results) {
    if (!r.error.empty()) table.push_back({r.name, r.error});
  }
  return table;
}

// Runs that came before those that are compared: stages and sweeps.
Table earlier_table(const StudyConfig& study, const std::vector<RunResult>& results) {
  Table table = {{"run", "steps", study.metric}};
  for (const RunResult& r : results) {
    if (r.part == Part::kGrid || !r.error.empty()) continue;
    table.push_back({r.name, std::to_string(r.steps), r.part == Part::kStage ? "-" : number(r.value)});
  }
  return table;
}

Table reward_table(const std::vector<RunResult>& results) {
  Table table = {{"run", "final", "best", "collapse step", "ESS at the end of a round"}};
  for (const RunResult& r : results) {
    if (r.part != Part::kGrid || !r.error.empty()) continue;
    const double step = r.reward.collapse_step;
    table.push_back({r.name, number(r.value), number(r.reward.best),
                     std::isfinite(step) ? fmt::format("{:.0f}", step) : "-", number(r.reward.ess)});
  }
  return table;
}

std::string dots(const StudyConfig& study, const std::vector<CellResult>& cells) {
  std::vector<DotRow> rows;
  for (const CellResult& c : cells) {
    if (c.summary.n > 0) rows.push_back({c.name, c.values, c.summary.mean, c.summary.half95});
  }
  return rows.empty() ? "" : dot_chart(study.metric, unit_of(study.metric), rows);
}

std::string curves(const StudyConfig& study, const std::vector<CellResult>& cells) {
  std::vector<report::Line> lines;
  for (const CellResult& c : cells) {
    report::Line line{c.name, int(lines.size()), {}};
    for (const auto& [step, value] : c.curve) line.points.push_back({step, value});
    lines.push_back(std::move(line));
  }
  return report::line_chart({.title = study.metric + " over training, mean over seeds",
                             .y_label = unit_of(study.metric),
                             .width = 760,
                             .height = 340},
                            lines);
}

std::string state_of(const StudyConfig& study, const std::vector<RunResult>& results) {
  const auto failed =
      std::count_if(results.begin(), results.end(), [](const RunResult& r) { return !r.error.empty(); });
  return fmt::format("{} of {} runs are over, {} of them failed", results.size(), study.runs.size(), failed);
}

}  // namespace

std::vector<CellResult> by_cell(const std::vector<RunResult>& results, bool higher_is_better) {
  std::vector<CellResult> cells;
  std::vector<std::vector<const RunResult*>> runs;
  for (const RunResult& result : results) {
    if (result.part != Part::kGrid) continue;
    auto at =
        std::find_if(cells.begin(), cells.end(), [&](const CellResult& c) { return c.name == result.cell; });
    if (at == cells.end()) {
      cells.push_back({.name = result.cell});
      runs.emplace_back();
      at = cells.end() - 1;
    }
    if (result.error.empty()) {
      runs[size_t(at - cells.begin())].push_back(&result);
    } else {
      at->failed.push_back(result.seed + ": " + result.error);
    }
  }
  for (size_t i = 0; i < cells.size(); ++i) {
    summarise_cell(runs[i], cells[i]);
    compare(cells[0], higher_is_better, cells[i]);
  }
  return cells;
}

ordered_json results_json(const StudyConfig& study, const std::vector<RunResult>& results) {
  ordered_json root = {{"study", study.base.string()},
                       {"metric", study.metric},
                       {"runs_planned", study.runs.size()},
                       {"cells", ordered_json::array()},
                       {"runs", ordered_json::array()}};
  for (const CellResult& c : by_cell(results, study.higher_is_better())) {
    ordered_json cell = {{"name", c.name},
                         {"n", c.summary.n},
                         {"mean", finite(c.summary.mean)},
                         {"sd", finite(c.summary.sd)},
                         {"half_width_95", finite(c.summary.half95)},
                         {"worst_domain_mean", finite(c.worst.mean)},
                         {"minus_first_mean", finite(c.difference.mean)},
                         {"minus_first_half_width_95", finite(c.difference.half95)},
                         {"steps_to_first", finite(c.steps_to_first)},
                         {"failed", c.failed}};
    root["cells"].push_back(std::move(cell));
  }
  for (const RunResult& r : results) {
    ordered_json run = {{"name", r.name},
                        {"cell", r.cell},
                        {"seed", r.seed},
                        {"status", r.error.empty() ? "done" : "failed"}};
    if (!r.error.empty()) {
      run["error"] = r.error;
    } else {
      run["value"] = r.value;
      run["worst_domain"] = r.worst;
      run["domains"] = r.domains;
      run["steps"] = r.steps;
      run["tokens"] = r.tokens;
      if (study.higher_is_better() && r.part != Part::kStage) {
        run["best"] = finite(r.reward.best);
        run["collapse_step"] = finite(r.reward.collapse_step);
        run["ess"] = finite(r.reward.ess);
      }
    }
    root["runs"].push_back(std::move(run));
  }
  return root;
}

std::string results_markdown(const StudyConfig& study, const std::vector<RunResult>& results) {
  const std::vector<CellResult> cells = by_cell(results, study.higher_is_better());
  std::string out = fmt::format("# {}\n\n{}. {}: {}. Intervals: Student's t over seeds.\n\n",
                                fs::path(study.out).filename().string(), state_of(study, results),
                                study.metric, unit_of(study.metric));
  out += markdown_table(main_table(cells)) + "\n" + markdown_table(domain_table(cells));
  if (study.higher_is_better()) out.append("\n").append(markdown_table(reward_table(results)));
  const Table earlier = earlier_table(study, results), failures = failure_table(results);
  if (earlier.size() > 1) out.append("\n").append(markdown_table(earlier));
  return failures.size() > 1 ? out + "\n" + markdown_table(failures) : out;
}

std::string results_page(const StudyConfig& study, const std::vector<RunResult>& results) {
  const std::vector<CellResult> cells = by_cell(results, study.higher_is_better());
  const Table failures = failure_table(results);
  std::string body =
      html_section("Results",
                   std::string(study.higher_is_better() ? "Higher" : "Lower") +
                       " is better. Differences are taken seed by seed against the first row.",
                   "stack", html_table(main_table(cells)) + dots(study, cells) + curves(study, cells));
  body += html_section("By domain", "Mean and standard deviation over seeds.", "stack",
                       html_table(domain_table(cells)));
  if (study.higher_is_better())
    body += html_section(
        "How long the reward lasts",
        "Final: the mean of the last three evaluations. Collapse: the first evaluation below half of "
        "the best before it, when none came back above.",
        "stack", html_table(reward_table(results)));
  const Table earlier = earlier_table(study, results);
  if (earlier.size() > 1)
    body += html_section("Stages and sweeps", "Runs that the others start from or took a value from.",
                         "stack", html_table(earlier));
  if (failures.size() > 1) body += html_section("Runs that failed", "", "stack", html_table(failures));
  return html_document(fs::path(study.out).filename().string(),
                       state_of(study, results) + "; " + unit_of(study.metric), body);
}

void write_report(const StudyConfig& study, const std::vector<RunResult>& results) {
  const fs::path out = study.out;
  base::write_file_atomic(out / "results.json", results_json(study, results).dump(1) + "\n", ExitCode::kData);
  base::write_file_atomic(out / "results.md", results_markdown(study, results), ExitCode::kData);
  base::write_file_atomic(out / "report.html", results_page(study, results), ExitCode::kData);
  const std::string chart = dots(study, by_cell(results, study.higher_is_better()));
  if (!chart.empty()) base::write_file_atomic(out / "results.svg", svg_document(chart), ExitCode::kData);
}

}  // namespace cadre::study
