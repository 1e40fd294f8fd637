// RHO-loss: the best sequences of a larger batch of candidates (data/selectors/online.h).
#include <algorithm>

#include "data/selectors/makers.h"
#include "data/selectors/online.h"

namespace cadre::data {
namespace {

class RhoLoss final : public Selector {
 public:
  explicit RhoLoss(OnlineSelection online) : online_(std::move(online)) {}
  std::optional<OnlineSelection> online() const override { return online_; }

 private:
  OnlineSelection online_;
};

}  // namespace

std::vector<int64_t> keep_sequences(std::span<const double> excess, std::span<const int32_t> domain,
                                    const std::vector<int64_t>& counts) {
  std::vector<std::vector<int64_t>> order(counts.size());
  for (size_t i = 0; i < excess.size(); ++i) order[size_t(domain[i])].push_back(int64_t(i));
  std::vector<int64_t> kept;
  for (size_t k = 0; k < counts.size(); ++k) {
    std::stable_sort(order[k].begin(), order[k].end(),
                     [&](int64_t a, int64_t b) { return excess[size_t(a)] > excess[size_t(b)]; });
    const auto count = std::min<int64_t>(counts[k], int64_t(order[k].size()));
    kept.insert(kept.end(), order[k].begin(), order[k].begin() + count);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

std::unique_ptr<Selector> make_rho_loss(base::Section section) {
  OnlineSelection online{.unit = OnlineSelection::Unit::kSequences, .reference = {}, .keep = 0.1};
  online.reference = section.text("reference", "");
  online.keep = section.number("keep", online.keep, {.max = 1, .above = 0});
  section.finish();
  return std::make_unique<RhoLoss>(online);
}

}  // namespace cadre::data
