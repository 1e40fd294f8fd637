// Rho-1: a mask over tokens in every batch (data/selectors/online.h).
#include <algorithm>
#include <cmath>

#include "data/selectors/makers.h"
#include "data/selectors/online.h"

namespace cadre::data {
namespace {

class Rho1 final : public Selector {
 public:
  explicit Rho1(OnlineSelection online) : online_(std::move(online)) {}
  std::optional<OnlineSelection> online() const override { return online_; }

 private:
  OnlineSelection online_;
};

}  // namespace

int64_t kept_tokens(int64_t trained, double keep) {
  // 0.6 * 5 is a little above 3 in binary; a millionth of a token is not one more.
  return std::min(trained, int64_t(std::ceil(double(trained) * keep - 1e-6)));
}

void keep_tokens(std::span<const double> excess, double keep, Batch& batch) {
  std::vector<int64_t> order;
  for (int64_t row = 0; row < batch.num_sequences; ++row) {
    order.clear();
    for (int64_t t = row * batch.seq_len; t < (row + 1) * batch.seq_len; ++t) {
      if (batch.loss_mask[size_t(t)] != 0) order.push_back(t);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return excess[size_t(a)] > excess[size_t(b)]; });
    for (size_t i = size_t(kept_tokens(int64_t(order.size()), keep)); i < order.size(); ++i) {
      batch.loss_mask[size_t(order[i])] = 0;
    }
  }
}

std::unique_ptr<Selector> make_rho1(base::Section section) {
  OnlineSelection online{.unit = OnlineSelection::Unit::kTokens, .reference = {}, .keep = 0.6};
  online.reference = section.text("reference", "");
  online.keep = section.number("keep", online.keep, {.max = 1, .above = 0});
  section.finish();
  return std::make_unique<Rho1>(online);
}

}  // namespace cadre::data
