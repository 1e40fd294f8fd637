// Balanced greedy choice after BIDS (arXiv 2501.12147); the exact rule is ours. Scores are standardised by target; then the
// next unit is the one with the largest A_ij - m_j over units i and targets j, m_j being the mean of what was chosen so
// far (0 at first): the best gain on the capability that is served least. m_j shifts a whole column, so each column is
// sorted once and read by a cursor; ties go to the lower target, then the lower unit.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/selectors/makers.h"
#include "data/selectors/take.h"

namespace cadre::data {
namespace {

void standardise(std::vector<double>& column) {
  const double n = double(column.size());
  double mean = 0, squares = 0;
  for (const double x : column) mean += x / n;
  for (const double x : column) squares += (x - mean) * (x - mean) / n;
  const double deviation = squares > 0 ? std::sqrt(squares) : 1;
  for (double& x : column) x = (x - mean) / deviation;
}

class Bids final : public Selector {
 public:
  Bids(std::vector<std::string> scores, std::vector<double> rates, double keep)
      : scores_(std::move(scores)), rates_(std::move(rates)), keep_(keep) {}

  std::optional<std::vector<int64_t>> choose(const Corpus& units, uint64_t) const override {
    auto a = weighted_columns(units, scores_, rates_);
    const size_t targets = a.size(), count = a.front().size();
    std::vector<std::vector<int64_t>> order(targets);
    for (size_t j = 0; j < targets; ++j) {
      standardise(a[j]);
      order[j].resize(count);
      std::iota(order[j].begin(), order[j].end(), int64_t{0});
      std::stable_sort(order[j].begin(), order[j].end(),
                       [&](int64_t x, int64_t y) { return a[j][size_t(x)] > a[j][size_t(y)]; });
    }
    const double budget = keep_ * trainable(units, order[0]);
    std::vector<uint8_t> taken(count, 0);
    std::vector<size_t> cursor(targets, 0);
    std::vector<double> sum(targets, 0.0);
    std::vector<int64_t> chosen;
    for (double tokens = 0; chosen.size() < count;) {
      int64_t best = -1;
      double gain = 0;
      for (size_t j = 0; j < targets; ++j) {
        while (taken[size_t(order[j][cursor[j]])]) ++cursor[j];
        const int64_t unit = order[j][cursor[j]];
        const double mean = chosen.empty() ? 0 : sum[j] / double(chosen.size());
        if (best >= 0 && a[j][size_t(unit)] - mean <= gain) continue;
        best = unit;
        gain = a[j][size_t(unit)] - mean;
      }
      const double size = trainable(units, best);
      if (!chosen.empty() && tokens + size / 2 > budget) break;
      taken[size_t(best)] = 1;
      chosen.push_back(best);
      tokens += size;
      for (size_t j = 0; j < targets; ++j) sum[j] += a[j][size_t(best)];
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  std::vector<std::string> scores_;
  std::vector<double> rates_;
  double keep_;
};

}  // namespace

std::unique_ptr<Selector> make_bids(base::Section section) {
  const std::vector<std::string> scores = section.texts("scores", {"less"});
  const std::vector<double> rates = section.numbers("rates", {}, {.min = 0});
  const double keep = section.number("keep", 0.15, {.max = 1, .above = 0});
  section.finish();
  return std::make_unique<Bids>(scores, rates, keep);
}

}  // namespace cadre::data
