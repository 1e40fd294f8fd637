// Perplexity bands (arXiv 2405.20541): the low, middle or high part of each domain by the reference's loss per token.
// Within domains, since over all of them a band would be a mixture: code and tables have low losses, web text high ones.
#include <algorithm>
#include <cmath>

#include "data/selectors/makers.h"
#include "data/selectors/take.h"

namespace cadre::data {
namespace {

class Bands final : public Selector {
 public:
  Bands(std::string scores, std::string band, double keep)
      : scores_(std::move(scores)), band_(std::move(band)), keep_(keep) {}

  std::optional<std::vector<int64_t>> choose(const Corpus& units, uint64_t) const override {
    const Scores scores = units.scores(scores_);
    const std::vector<double>&nats = scores.column("nats"), &tokens = scores.column("tokens");
    std::vector<int64_t> chosen;
    for (std::vector<int64_t>& order : scopes_of(units, true)) {
      const auto loss = [&](int64_t d) { return nats[size_t(d)] / std::max(1.0, tokens[size_t(d)]); };
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return loss(a) < loss(b); });
      if (band_ == "high") std::reverse(order.begin(), order.end());
      if (band_ == "middle") order = from_the_middle(units, order);
      take_first(units, order, keep_, chosen);
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  // By distance of a document's middle token from the median token.
  static std::vector<int64_t> from_the_middle(const Corpus& units, const std::vector<int64_t>& order) {
    const double all = trainable(units, order);
    std::vector<std::pair<double, int64_t>> keyed;
    double below = 0;
    for (const int64_t d : order) {
      const double size = trainable(units, d);
      keyed.emplace_back(std::abs(below + size / 2 - all / 2), d);
      below += size;
    }
    std::stable_sort(keyed.begin(), keyed.end());
    std::vector<int64_t> out;
    for (const auto& [distance, d] : keyed) out.push_back(d);
    return out;
  }

  std::string scores_, band_;
  double keep_;
};

}  // namespace

std::unique_ptr<Selector> make_bands(base::Section section) {
  const std::string scores = section.text("scores", "loss");
  const std::string band = section.choice("band", "middle", {"low", "middle", "high"});
  const double keep = section.number("keep", 0.5, {.max = 1, .above = 0});
  section.finish();
  return std::make_unique<Bands>(scores, band, keep);
}

}  // namespace cadre::data
