// No balance loss: for loss-free balancing (sigmoid_bias), expert choice and ablations.
#include <algorithm>

#include "moe/balance/makers.h"

namespace cadre::moe {
namespace {

template <class T>
class NoBalance final : public BalanceLoss<T> {
 public:
  using typename BalanceLoss<T>::W;
  bool active() const override { return false; }
  void observe(const Routing<T>&, device::View<const int32_t, 1>, int64_t, comm::Communicator&) override {}
  double loss_and_grad(const Routing<T>&, device::View<const int32_t, 1>, int64_t, const BatchCounts&,
                       device::View<W, 2> dprobs) override {
    std::fill(dprobs.begin(), dprobs.end(), W(0));
    return 0;
  }
};

}  // namespace

template <class T>
std::unique_ptr<BalanceLoss<T>> make_no_balance(base::Section section, const BalanceShape<T>&) {
  section.finish();
  return std::make_unique<NoBalance<T>>();
}
template std::unique_ptr<BalanceLoss<float>> make_no_balance(base::Section, const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_no_balance(base::Section, const BalanceShape<double>&);

}  // namespace cadre::moe
