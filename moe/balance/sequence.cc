// Balance within each sequence, then the mean over the sequences of the global batch (DeepSeek-V3, arXiv
// 2412.19437, eq. 17-20): f and P of a sequence come from its own real tokens. Sequences are never cut, so no
// split changes the loss.
#include <algorithm>

#include "moe/balance/load_loss.h"
#include "moe/balance/makers.h"

namespace cadre::moe {
namespace {

template <class T>
class SequenceBalance final : public LoadLoss<T> {
 public:
  using typename BalanceLoss<T>::W;
  SequenceBalance(double coef, const BalanceShape<T>& shape) : LoadLoss<T>(coef, shape) {}

  void observe(const Routing<T>&, device::View<const int32_t, 1>, int64_t, comm::Communicator&) override {}
  // f_i = count_i / (K T_s), P_i = (1/T_s) sum_t p_ti.
  void loss_and_grad(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t seq_len,
                     const BatchCounts& counts, device::View<W, 2> dprobs,
                     device::View<double, 1> loss) override {
    const auto rates = this->rates_.rows(0, (routing.num_tokens + seq_len - 1) / seq_len);
    // Without counts the loss stays out.
    const double scale = counts.sequences > 0 ? this->coef_ * this->shape_.num_experts : 0;
    const double sequences = std::max(1.0, double(counts.sequences));
    this->shape_.kernels->sequence_rates(*this->shape_.queue, routing.choice, segment, seq_len, scale,
                                         sequences, rates);
    this->apply(routing, segment, seq_len, rates, dprobs, loss);
  }
  bool needs_whole_sequences() const override { return true; }
};

}  // namespace

template <class T>
std::unique_ptr<BalanceLoss<T>> make_sequence_balance(base::Section section, const BalanceShape<T>& shape) {
  const double coef = section.number("coef", 1e-4, {.min = 0});
  section.finish();
  return std::make_unique<SequenceBalance<T>>(coef, shape);
}
template std::unique_ptr<BalanceLoss<float>> make_sequence_balance(base::Section, const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_sequence_balance(base::Section,
                                                                    const BalanceShape<double>&);
template std::unique_ptr<BalanceLoss<device::bf16>> make_sequence_balance(base::Section,
                                                                          const BalanceShape<device::bf16>&);

}  // namespace cadre::moe
