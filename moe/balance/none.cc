// No balance loss: for loss-free balancing (sigmoid_bias), expert choice and ablations.
#include "moe/balance/makers.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {
namespace {

template <class T>
class NoBalance final : public BalanceLoss<T> {
 public:
  using typename BalanceLoss<T>::W;
  explicit NoBalance(device::Queue* queue) : queue_(queue) {}
  bool active() const override { return false; }
  void observe(const Routing<T>&, device::View<const int32_t, 1>, int64_t, comm::Communicator&) override {}
  void loss_and_grad(const Routing<T>&, device::View<const int32_t, 1>, int64_t, const BatchCounts&,
                     device::View<W, 2> dprobs, device::View<double, 1>) override {
    device::zero(*queue_, dprobs);
  }

 private:
  device::Queue* queue_;
};

}  // namespace

template <class T>
std::unique_ptr<BalanceLoss<T>> make_no_balance(base::Section section, const BalanceShape<T>& shape) {
  section.finish();
  return std::make_unique<NoBalance<T>>(shape.queue);
}
template std::unique_ptr<BalanceLoss<float>> make_no_balance(base::Section, const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_no_balance(base::Section, const BalanceShape<double>&);
template std::unique_ptr<BalanceLoss<device::bf16>> make_no_balance(base::Section,
                                                                    const BalanceShape<device::bf16>&);

}  // namespace cadre::moe
