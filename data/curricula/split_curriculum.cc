#include "data/curricula/split_curriculum.h"

#include <algorithm>
#include <cmath>

namespace cadre::data {

SplitConfig read_split(base::Section& section) {
  SplitConfig c;
  c.cut = section.number("cut", c.cut, {.above = 0, .below = 1});
  c.curve.low = section.number("low", c.curve.low, {.min = 0, .max = 1});
  c.curve.high = section.number("high", c.curve.high, {.min = 0, .max = 1});
  c.curve.steepness = section.number("steepness", c.curve.steepness, {.max = 100, .above = 0});
  c.reversed = section.boolean("reversed", c.reversed);
  if (c.curve.low >= c.curve.high)
    section.reject("high", fmt::format("{} is not above low, {}", c.curve.high, c.curve.low));
  if (!feasible(c.curve, 1 - c.cut)) {
    section.reject("cut",
                   fmt::format("{} of the text is high, but shares from {} to {} with steepness {} use every "
                               "document once only between {:.3f} and {:.3f}",
                               1 - c.cut, c.curve.low, c.curve.high, c.curve.steepness,
                               feasible_range(c.curve).first, feasible_range(c.curve).second));
  }
  return c;
}

std::vector<uint8_t> above_cut(const Corpus& units, const std::vector<double>& score, double cut,
                               bool reversed) {
  require(score.size() == size_t(units.num_documents()), ExitCode::kData,
          "{} scores for {} documents; score the data again", score.size(), units.num_documents());
  std::vector<uint8_t> high(score.size(), 0);
  std::vector<std::vector<int64_t>> ranked(size_t(units.num_domains())), unranked(ranked.size());
  for (int64_t d = 0; d < units.num_documents(); ++d) {
    auto& lists = std::isnan(score[size_t(d)]) ? unranked : ranked;
    lists[size_t(units.document(d).domain)].push_back(d);
  }
  const double sign = reversed ? -1 : 1;
  const auto tokens = [&](int64_t d) { return double(units.document(d).length - 1); };
  for (size_t k = 0; k < ranked.size(); ++k) {
    auto& documents = ranked[k];
    std::stable_sort(documents.begin(), documents.end(),
                     [&](int64_t a, int64_t b) { return sign * score[size_t(a)] < sign * score[size_t(b)]; });
    double all = 0, low = 0, below = 0;
    for (const int64_t d : documents) all += tokens(d);
    for (const int64_t d : documents) {
      high[size_t(d)] = below + tokens(d) / 2 > cut * all;
      below += tokens(d);
      if (!high[size_t(d)]) low += tokens(d);
    }
    for (const int64_t d : unranked[k]) {
      all += tokens(d);
      high[size_t(d)] = low >= cut * all;
      if (!high[size_t(d)]) low += tokens(d);
    }
  }
  return high;
}

SplitCurriculum::SplitCurriculum(const SplitConfig& config, const Corpus& units,
                                 const std::vector<double>& score)
    : high_(above_cut(units, score, config.cut, config.reversed)) {
  std::vector<double> all(size_t(units.num_domains()), 0.0), high = all;
  for (int64_t d = 0; d < units.num_documents(); ++d) {
    const auto [length, bytes, domain] = units.document(d);
    all[size_t(domain)] += double(length - 1);
    if (high_[size_t(d)]) high[size_t(domain)] += double(length - 1);
  }
  for (size_t k = 0; k < all.size(); ++k) {
    const double q = all[k] > 0 ? high[k] / all[k] : 1 - config.cut;
    share_.push_back({q, std::nullopt});
    if (feasible(config.curve, q)) share_.back().curve.emplace(config.curve, q);
  }
}

std::vector<double> SplitCurriculum::quota(double domain_progress, int domain) const {
  const Share& share = share_[size_t(domain)];
  const double high = share.curve ? share.curve->at(domain_progress) : share.all;
  return {1 - high, high};
}

}  // namespace cadre::data
