// Balance losses: L = alpha E sum_i f_i P_i per MoE layer, summed over layers (specs: Switch, Fedus et al.
// 2021, eq. 4; global-batch form of Qiu et al. 2025, arXiv 2501.11873). f is a constant, the gradient flows
// through P only. One file a loss in balance/, one row in balance/table.cc.
#pragma once

#include <memory>

#include "moe/router.h"
#include "parallel/base/batch.h"
#include "parallel/comm/communicator.h"

namespace cadre::moe {

template <class T>
struct BalanceShape {
  int num_experts = 0, top_k = 0;
  int64_t max_tokens = 0;
  device::Queue* queue = nullptr;  // borrowed, like kernels; both may be null for reading the config only
  const MoeKernels<T>* kernels = nullptr;
};

template <class T>
class BalanceLoss {
 public:
  using W = device::wide_t<T>;
  virtual ~BalanceLoss() = default;
  // saved lives as long as the loss; scratch is used within one call only.
  virtual void reserve(device::Arena& saved, device::Arena& scratch) { (void)saved, (void)scratch; }
  virtual bool active() const { return true; }  // false: no loss, and the layer skips the calls below
  virtual void begin_step() {}
  // In the forward pass; may start a collective over `data`. All ranks call it for every micro-batch.
  virtual void observe(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t seq_len,
                       comm::Communicator& data) = 0;
  // In the backward pass: overwrites dprobs (T, E) with dL/dp and adds this micro-batch's share of the loss to
  // loss[0], on the device.
  virtual void loss_and_grad(const Routing<T>& routing, device::View<const int32_t, 1> segment,
                             int64_t seq_len, const BatchCounts& counts, device::View<W, 2> dprobs,
                             device::View<double, 1> loss) = 0;
  virtual void after_step(const std::vector<double>& counts) { (void)counts; }
  virtual void save(StateDict& state, const std::string& prefix) const { (void)state, (void)prefix; }
  virtual void load(const StateDict& state, const std::string& prefix) { (void)state, (void)prefix; }
  virtual bool split_dependent() const { return false; }
  virtual bool needs_whole_sequences() const { return false; }  // where ranks share sequences it cannot be
};

template <class T>
using BalanceMaker = std::unique_ptr<BalanceLoss<T>> (*)(base::Section, const BalanceShape<T>&);
template <class T>
const std::vector<base::Entry<BalanceMaker<T>>>& balance_table();
template <class T>
std::unique_ptr<BalanceLoss<T>> make_balance_loss(const MoeConfig& config, const BalanceShape<T>& shape);

}  // namespace cadre::moe
