// LESS (Xia et al. 2024, arXiv 2402.04333): each document's score for a target is the sum over checkpoints of the learning
// rate's share times the cosine of gradients (`cadre score --kind less`, one name a checkpoint), and its score is the
// largest over targets. The best are kept.
#include <algorithm>
#include <numeric>

#include "data/selectors/makers.h"
#include "data/selectors/take.h"

namespace cadre::data {
namespace {

class Less final : public Selector {
 public:
  Less(std::vector<std::string> scores, std::vector<double> rates, double keep)
      : scores_(std::move(scores)), rates_(std::move(rates)), keep_(keep) {}

  std::optional<std::vector<int64_t>> choose(const Corpus& units, uint64_t) const override {
    const auto columns = weighted_columns(units, scores_, rates_);
    std::vector<double> best = columns.front();
    for (const auto& column : columns) {
      for (size_t d = 0; d < best.size(); ++d) best[d] = std::max(best[d], column[d]);
    }
    std::vector<int64_t> order(best.size()), chosen;
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return best[size_t(a)] > best[size_t(b)]; });
    take_first(units, order, keep_, chosen);
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  std::vector<std::string> scores_;
  std::vector<double> rates_;
  double keep_;
};

}  // namespace

std::unique_ptr<Selector> make_less(base::Section section) {
  const std::vector<std::string> scores = section.texts("scores", {"less"});
  const std::vector<double> rates = section.numbers("rates", {}, {.min = 0});
  const double keep = section.number("keep", 0.05, {.max = 1, .above = 0});
  section.finish();
  return std::make_unique<Less>(scores, rates, keep);
}

}  // namespace cadre::data
