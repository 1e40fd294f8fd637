#include "optim/objectives/cross_entropy.h"

namespace cadre::optim {
namespace {

template <class T>
class CrossEntropy final : public Objective<T> {
 public:
  using W = device::wide_t<T>;
  double loss_and_grad(device::View<const W, 1> logp, const Batch& batch, const BatchCounts& counts,
                       device::View<W, 1> dlogp) override {
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
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_cross_entropy(base::Section section) {
  section.finish();
  return std::make_unique<CrossEntropy<T>>();
}
template std::unique_ptr<Objective<float>> make_cross_entropy(base::Section);
template std::unique_ptr<Objective<double>> make_cross_entropy(base::Section);

}  // namespace cadre::optim
