// What the balance losses share: L = coef * E * sum_i f_i P_i, with P_i from the probabilities of this
// micro-batch, weighted by tokens, so that pieces of a batch add up to the loss of the whole.
#pragma once

#include "moe/balance_loss.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {

template <class T>
class LoadLoss : public BalanceLoss<T> {
 public:
  using W = device::wide_t<T>;
  void reserve(device::Arena& saved, device::Arena& scratch) override {
    load_ = saved.take<double, 1>({shape_.num_experts});
    // A sequence has at least one token. Only the rows in use are touched.
    sums_ = scratch.take<double, 2>({shape_.max_tokens, shape_.num_experts});
    rates_ = scratch.take<double, 2>({shape_.max_tokens, shape_.num_experts});
  }

 protected:
  LoadLoss(double coef, const BalanceShape<T>& shape) : coef_(coef), shape_(shape) {}

  // One f for all tokens: L = coef E / T_global sum_i f_i sum_t p_ti, so dL/dp_ti = scale f_i with this scale.
  double shared_scale(const BatchCounts& counts) const {
    return counts.real_tokens > 0 ? coef_ * shape_.num_experts / double(counts.real_tokens) : 0;
  }
  // f are the shares of load_.
  void shared_load(const Routing<T>& routing, device::View<const int32_t, 1> segment,
                   const BatchCounts& counts, device::View<W, 2> dprobs, device::View<double, 1> loss) {
    const auto rates = rates_.rows(0, 1);
    shape_.kernels->load_rates(*shape_.queue, load_, shared_scale(counts), rates[0]);
    apply(routing, segment, std::max<int64_t>(routing.num_tokens, 1), rates, dprobs, loss);
  }

  // dL/dp_ti = rates[t / seq_len][i]; adds the sum over t, i of rate * p to the loss.
  void apply(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t seq_len,
             device::View<const double, 2> rates, device::View<W, 2> dprobs, device::View<double, 1> loss) {
    const auto sums = sums_.rows(0, rates.dim(0));
    shape_.kernels->sequence_sums(*shape_.queue, routing.probs, seq_len, sums);
    shape_.kernels->sequence_grads(*shape_.queue, rates, segment, seq_len, dprobs);
    shape_.kernels->add_dot(*shape_.queue, rates, sums, loss);
  }

  double coef_;
  BalanceShape<T> shape_;
  device::View<double, 1> load_;          // (E) choices of each expert; saved
  device::View<double, 2> sums_, rates_;  // (sequences, E) scratch
};

}  // namespace cadre::moe
