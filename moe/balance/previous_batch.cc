// Balance with the load of the previous step: f from the choices of the whole last batch, 1/E before the
// first. Follows the global-batch loss (Qiu et al. 2025, arXiv 2501.11873) one step late, needs no
// communication in the layer, and is exact for any split over ranks and micro-batches. f is saved with the
// checkpoint.
#include "moe/balance/load_loss.h"
#include "moe/balance/makers.h"

namespace cadre::moe {
namespace {

template <class T>
class PreviousBatchBalance final : public LoadLoss<T> {
 public:
  using typename BalanceLoss<T>::W;
  PreviousBatchBalance(double coef, const BalanceShape<T>& shape)
      : LoadLoss<T>(coef, shape), f_(shape.num_experts, 1.0 / shape.num_experts) {}

  void observe(const Routing<T>&, device::View<const int32_t, 1>, int64_t, comm::Communicator&) override {}
  void loss_and_grad(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t,
                     const BatchCounts& counts, device::View<W, 2> dprobs,
                     device::View<double, 1> loss) override {
    const double scale = this->shared_scale(counts);
    if (stale_ || scale != scale_) {
      std::vector<double> rates = f_;
      for (double& rate : rates) rate *= scale;
      device::upload(*this->shape_.queue, rates, this->load_);
    }
    stale_ = false;
    scale_ = scale;
    const auto rates = this->load_.template reshape<2>({1, this->load_.size()});
    this->apply(routing, segment, std::max<int64_t>(routing.num_tokens, 1), rates, dprobs, loss);
  }
  void after_step(const std::vector<double>& counts) override {
    double slots = 0;
    for (const double c : counts) slots += c;
    if (slots == 0) return;  // a step without tokens says nothing about the load
    for (size_t e = 0; e < f_.size(); ++e) f_[e] = counts[e] / slots;
    stale_ = true;
  }
  void save(StateDict& state, const std::string& prefix) const override {
    state[prefix + ".balance.load"] = f_;
  }
  void load(const StateDict& state, const std::string& prefix) override {
    f_ = state_vector(state, prefix + ".balance.load", f_.size());
    stale_ = true;
  }

 private:
  std::vector<double> f_;  // (E)
  bool stale_ = true;      // the device has rates of an older f
  double scale_ = 0;       // of the device's rates
};

}  // namespace

template <class T>
std::unique_ptr<BalanceLoss<T>> make_previous_batch_balance(base::Section section,
                                                            const BalanceShape<T>& shape) {
  const double coef = section.number("coef", 0.01, {.min = 0});
  section.finish();
  return std::make_unique<PreviousBatchBalance<T>>(coef, shape);
}
template std::unique_ptr<BalanceLoss<float>> make_previous_batch_balance(base::Section,
                                                                         const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_previous_batch_balance(base::Section,
                                                                          const BalanceShape<double>&);
template std::unique_ptr<BalanceLoss<device::bf16>> make_previous_batch_balance(
    base::Section, const BalanceShape<device::bf16>&);

}  // namespace cadre::moe
