#include "data/selectors/take.h"

#include "parallel/base/errors.h"

namespace cadre::data {

double trainable(const Corpus& units, int64_t unit) {
  return double(units.document(unit).length - 1);
}

double trainable(const Corpus& units, const std::vector<int64_t>& documents) {
  double sum = 0;
  for (const int64_t d : documents) sum += trainable(units, d);
  return sum;
}

std::vector<std::vector<int64_t>> scopes_of(const Corpus& units, bool by_domain) {
  std::vector<std::vector<int64_t>> scopes(by_domain ? size_t(units.num_domains()) : 1);
  for (int64_t d = 0; d < units.num_documents(); ++d) {
    scopes[by_domain ? size_t(units.document(d).domain) : 0].push_back(d);
  }
  return scopes;
}

void take_first(const Corpus& units, const std::vector<int64_t>& order, double keep,
                std::vector<int64_t>& out) {
  const double budget = keep * trainable(units, order);
  double taken = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double size = trainable(units, order[i]);
    if (i > 0 && taken + size / 2 > budget) return;
    out.push_back(order[i]);
    taken += size;
  }
}

std::vector<std::vector<double>> weighted_columns(const Corpus& units, const std::vector<std::string>& names,
                                                  std::vector<double> rates) {
  if (rates.empty()) rates.assign(names.size(), 1.0);
  require(!names.empty() && rates.size() == names.size(), ExitCode::kUsage,
          "selector.scores has {} names and selector.rates {} numbers, expected one rate a name",
          names.size(), rates.size());
  double sum = 0;
  for (const double r : rates) sum += r;
  require(sum > 0, ExitCode::kUsage, "selector.rates add up to {}, expected more than 0", sum);
  std::vector<std::string> columns;
  std::vector<std::vector<double>> out;
  for (size_t i = 0; i < names.size(); ++i) {
    const Scores scores = units.scores(names[i]);
    if (i == 0) {
      columns = scores.columns;
      out.assign(columns.size(), std::vector<double>(size_t(units.num_documents()), 0.0));
    }
    require(scores.columns == columns, ExitCode::kData,
            "scores '{}' and '{}' have different columns; make both with the same targets", names[0],
            names[i]);
    for (size_t c = 0; c < out.size(); ++c) {
      for (size_t d = 0; d < out[c].size(); ++d) out[c][d] += rates[i] / sum * scores.values[c].at(d);
    }
  }
  return out;
}

}  // namespace cadre::data
