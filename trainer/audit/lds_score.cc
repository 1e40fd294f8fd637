#include "trainer/audit/lds_score.h"

#include <cmath>
#include <numeric>

#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

using nlohmann::ordered_json;

struct Query {
  std::vector<double> predicted, real;  // by subset
};

std::vector<Query> queries_of(const std::vector<std::vector<double>>& by_unit,
                              const std::vector<std::vector<size_t>>& members,
                              const std::vector<std::vector<std::vector<double>>>& outcomes) {
  std::vector<Query> queries(by_unit.size());
  for (size_t q = 0; q < queries.size(); ++q) {
    for (size_t s = 0; s < members.size(); ++s) {
      double sum = 0;
      for (const size_t u : members[s]) sum += by_unit[q][u];
      queries[q].predicted.push_back(sum);
      queries[q].real.push_back(study::mean(outcomes[q][s]));
    }
  }
  return queries;
}

// Over the subsets `at`, which may repeat; mean over queries.
double mean_spearman(const std::vector<Query>& queries, std::span<const size_t> at) {
  double mean = 0;
  for (const Query& query : queries) {
    std::vector<double> x, y;
    for (const size_t s : at) x.push_back(query.predicted[s]), y.push_back(query.real[s]);
    mean += study::spearman(x, y) / double(queries.size());
  }
  return mean;
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

std::vector<LdsScore> score_lds(const UnitInfluence& influence,
                                const std::vector<std::vector<size_t>>& members,
                                const std::vector<std::vector<std::vector<double>>>& outcomes) {
  std::vector<LdsScore> scores;
  for (const auto& entry : influence) {
    const std::vector<Query> queries = queries_of(entry.second, members, outcomes);
    LdsScore score{.method = entry.first, .by_query = {}};
    for (const Query& query : queries) score.by_query.push_back(study::spearman(query.predicted, query.real));
    score.mean = study::mean(score.by_query);
    const auto interval = study::bootstrap95(
        members.size(), 500, 1, [&](std::span<const size_t> at) { return mean_spearman(queries, at); });
    score.low = interval.low, score.high = interval.high;
    scores.push_back(std::move(score));
  }
  return scores;
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
