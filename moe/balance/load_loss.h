// What the balance losses share: L = coef * E * sum_i f_i P_i, with P_i from the probabilities of this
// micro-batch, weighted by tokens, so that pieces of a batch add up to the loss of the whole.
#pragma once

#include "moe/balance_loss.h"

namespace cadre::moe {

template <class T>
class LoadLoss : public BalanceLoss<T> {
 public:
  using W = device::wide_t<T>;
  void reserve(device::Arena& scratch) override {
    // A sequence has at least one token. Only the rows in use are touched.
    sums_ = scratch.take<double, 2>({shape_.max_tokens, shape_.num_experts});
    rates_ = scratch.take<double, 2>({shape_.max_tokens, shape_.num_experts});
  }

 protected:
  LoadLoss(double coef, const BalanceShape<T>& shape) : coef_(coef), shape_(shape) {}

  // One f for all tokens: L = coef E / T_global sum_i f_i sum_t p_ti, so dL/dp_ti = coef E f_i / T_global.
  double shared_load(const std::vector<double>& f, const Routing<T>& routing,
                     device::View<const int32_t, 1> segment, const BatchCounts& counts,
                     device::View<W, 2> dprobs) {
    const double scale = counts.real_tokens > 0 ? coef_ * shape_.num_experts / double(counts.real_tokens) : 0;
    const auto rates = rates_.rows(0, 1);
    for (int e = 0; e < shape_.num_experts; ++e) rates[0][e] = scale * f[e];
    return apply(routing, segment, std::max<int64_t>(routing.num_tokens, 1), rates, dprobs);
  }

  // dL/dp_ti = rates[t / seq_len][i]; returns sum over t, i of rate * p.
  double apply(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t seq_len,
               device::View<const double, 2> rates, device::View<W, 2> dprobs) {
    const auto sums = sums_.rows(0, rates.dim(0));
    shape_.kernels->sequence_sums(*shape_.queue, routing.probs, seq_len, sums);
    shape_.kernels->sequence_grads(*shape_.queue, rates, segment, seq_len, dprobs);
    double loss = 0;
    for (int64_t i = 0; i < rates.size(); ++i) loss += rates.data()[i] * sums.data()[i];
    return loss;
  }

  double coef_;
  BalanceShape<T> shape_;
  device::View<double, 2> sums_, rates_;  // (sequences, E)
};

}  // namespace cadre::moe
