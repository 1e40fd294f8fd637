// Balance over each rank's micro-batch (Fedus et al. 2021, arXiv 2101.03961, eq. 4-6): f from the
// micro-batch's own choices. Weighted by its real tokens, so that the losses of unequal micro-batches average
// as their tokens do. f depends on how the batch is split, and so does the loss.
#include "moe/balance/load_loss.h"
#include "moe/balance/makers.h"

namespace cadre::moe {
namespace {

template <class T>
class MicroBatchBalance final : public LoadLoss<T> {
 public:
  using typename BalanceLoss<T>::W;
  MicroBatchBalance(double coef, const BalanceShape<T>& shape) : LoadLoss<T>(coef, shape) {}

  void observe(const Routing<T>&, device::View<const int32_t, 1>, int64_t, comm::Communicator&) override {}
  void loss_and_grad(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t,
                     const BatchCounts& counts, device::View<W, 2> dprobs,
                     device::View<double, 1> loss) override {
    device::zero(*this->shape_.queue, this->load_);
    this->shape_.kernels->add_counts(*this->shape_.queue, routing.chosen(), this->load_);
    this->shared_load(routing, segment, counts, dprobs, loss);
  }
  bool split_dependent() const override { return true; }
};

}  // namespace

template <class T>
std::unique_ptr<BalanceLoss<T>> make_micro_batch_balance(base::Section section,
                                                         const BalanceShape<T>& shape) {
  const double coef = section.number("coef", 0.01, {.min = 0});
  section.finish();
  return std::make_unique<MicroBatchBalance<T>>(coef, shape);
}
template std::unique_ptr<BalanceLoss<float>> make_micro_batch_balance(base::Section,
                                                                      const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_micro_batch_balance(base::Section,
                                                                       const BalanceShape<double>&);
template std::unique_ptr<BalanceLoss<device::bf16>> make_micro_batch_balance(
    base::Section, const BalanceShape<device::bf16>&);

}  // namespace cadre::moe
