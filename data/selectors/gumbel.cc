// Gumbel-top-k (Kool et al. 2019, arXiv 1903.06059; for data selection Yu et al. 2024, arXiv 2406.06046): the largest of
// z / T + Gumbel noise are a sample without replacement from softmax(z / T), so that what is chosen stays diverse. z is the
// score in standard deviations of its scope; T = 0 is plain top-k. Noise is a function of seed and unit.
#include <algorithm>
#include <cmath>

#include "data/selectors/makers.h"
#include "data/selectors/take.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

struct GumbelConfig {
  std::string scores = "score", column = "score";
  double keep = 0.2, temperature = 0.5;
  bool lowest = false, by_domain = true;
};

class Gumbel final : public Selector {
 public:
  explicit Gumbel(GumbelConfig config) : c_(std::move(config)) {}

  std::optional<std::vector<int64_t>> choose(const Corpus& units, uint64_t seed) const override {
    const std::vector<double> score = units.scores(c_.scores).column(c_.column);
    const base::Philox random(base::mix(seed, base::hash_name("gumbel")));
    std::vector<int64_t> chosen;
    for (std::vector<int64_t>& order : scopes_of(units, c_.by_domain)) {
      double sum = 0, squares = 0;
      for (const int64_t d : order) sum += score[size_t(d)];
      const double mean = order.empty() ? 0 : sum / double(order.size());
      for (const int64_t d : order) squares += (score[size_t(d)] - mean) * (score[size_t(d)] - mean);
      const double deviation = squares > 0 ? std::sqrt(squares / double(order.size())) : 1;
      std::vector<double> key(order.empty() ? 0 : size_t(order.back()) + 1);
      for (const int64_t d : order) {
        const double z = (c_.lowest ? -1 : 1) * (score[size_t(d)] - mean) / deviation;
        const double noise = -std::log(-std::log(random.uniform(uint64_t(d)) + 0x1.0p-54));
        key[size_t(d)] = c_.temperature > 0 ? z / c_.temperature + noise : z;
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return key[size_t(a)] > key[size_t(b)]; });
      take_first(units, order, c_.keep, chosen);
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  GumbelConfig c_;
};

}  // namespace

std::unique_ptr<Selector> make_gumbel(base::Section section) {
  GumbelConfig c;
  c.scores = section.text("scores", c.scores);
  c.column = section.text("column", c.column);
  c.keep = section.number("keep", c.keep, {.max = 1, .above = 0});
  c.temperature = section.number("temperature", c.temperature, {.min = 0});
  c.lowest = section.boolean("lowest", c.lowest);
  c.by_domain = section.choice("within", "domain", {"domain", "all"}) == "domain";
  section.finish();
  return std::make_unique<Gumbel>(c);
}

}  // namespace cadre::data
