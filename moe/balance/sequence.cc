// Balance within each sequence, then the mean over the sequences of the global batch (DeepSeek-V3, arXiv
// 2412.19437, eq. 17-20): f and P of a sequence come from its own real tokens. Sequences are never cut, so no
// split changes the loss.
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
  double loss_and_grad(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t seq_len,
                       const BatchCounts& counts, device::View<W, 2> dprobs) override {
    const int64_t tokens = routing.num_tokens, sequences = (tokens + seq_len - 1) / seq_len;
    const auto rates = this->rates_.rows(0, sequences);
    std::fill(rates.begin(), rates.end(), 0.0);
    for (int64_t s = 0; s < sequences; ++s) {
      int64_t real = 0;
      for (int64_t t = s * seq_len; t < std::min(tokens, (s + 1) * seq_len); ++t) {
        if (segment[t] < 0) continue;
        ++real;
        for (const int32_t e : routing.choice[t]) rates[s][e] += 1;
      }
      if (real == 0) continue;
      // f_i = count_i / (K T_s), P_i = (1/T_s) sum_t p_ti.
      const double scale =
          this->coef_ * this->shape_.num_experts /
          (double(this->shape_.top_k) * double(real) * double(real) * double(counts.sequences));
      for (double& rate : rates[s]) rate *= scale;
    }
    return this->apply(routing, segment, seq_len, rates, dprobs);
  }
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

}  // namespace cadre::moe
