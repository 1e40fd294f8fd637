// Mean cross-entropy of the trained tokens, in nats: L = -sum_t c_t mask_t logp_t, with c_t = 1 / trained tokens of the
// global batch unless `aggregation` says otherwise. Takes the keys that all but dpo share, so that a run file can
// switch names; advantages and the behaviour policy are not in this loss.
#include "optim/aggregation.h"
#include "optim/objectives/makers.h"
#include "optim/objectives/policy.h"
#include "optim/objectives/segments.h"

namespace cadre::optim {
namespace {

template <class T>
class CrossEntropy final : public Objective<T> {
 public:
  using W = device::wide_t<T>;
  explicit CrossEntropy(const Aggregation& aggregation) : aggregation_(aggregation) {}

  double loss_and_grad(device::View<const W, 1> logp, const Batch& batch, const BatchCounts& counts,
                       device::View<W, 1> dlogp) override {
    if (aggregation_.kind != AggregationKind::kTokenMean) return by_sequence(logp, batch, counts, dlogp);
    // A global batch without trained tokens (all padding) has loss 0 and no gradient.
    const double scale = counts.trained_tokens > 0 ? 1 / double(counts.trained_tokens) : 0;
    double sum = 0;
    for (int64_t i = 0; i < logp.size(); ++i) {
      const double mask = batch.loss_mask[size_t(i)];
      // Masked entries are skipped, not multiplied: 0 x inf would be NaN.
      if (mask != 0) sum += mask * double(logp[i]);
      dlogp[i] = W(-mask * scale);
    }
    return -sum * scale;
  }
  bool constant_grad() const override { return true; }

 private:
  double by_sequence(device::View<const W, 1> logp, const Batch& batch, const BatchCounts& counts,
                     device::View<W, 1> dlogp) const {
    std::fill_n(dlogp.data(), dlogp.size(), W(0));
    double loss = 0;
    for_each_segment(batch, [&](size_t, const std::vector<size_t>& live) {
      const double c = aggregation_.coefficient(counts, int64_t(live.size()));
      double sum = 0;
      for (size_t i : live) {
        sum += double(logp[int64_t(i)]);
        dlogp[int64_t(i)] = W(-c);
      }
      if (!live.empty()) loss -= c * sum;
    });
    return loss;
  }
  Aggregation aggregation_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_cross_entropy(base::Section section) {
  const PolicyConfig policy = read_policy(section);
  section.finish();
  return std::make_unique<CrossEntropy<T>>(policy.aggregation);
}
template std::unique_ptr<Objective<float>> make_cross_entropy(base::Section);
template std::unique_ptr<Objective<double>> make_cross_entropy(base::Section);

}  // namespace cadre::optim
