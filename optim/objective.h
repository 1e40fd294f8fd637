// What is optimised: a function of the log-probability of each target token. One file an objective in
// objectives/, one row in objectives/table.cc. Everything divides by global counts, so ranks and
// micro-batches cannot change the loss.
#pragma once

#include <memory>
#include <vector>

#include "parallel/base/batch.h"
#include "parallel/base/table.h"
#include "parallel/device/view.h"

namespace cadre::optim {

template <class T>
class Objective {
 public:
  using W = device::wide_t<T>;
  virtual ~Objective() = default;
  // logp: (N) host memory; overwrites dlogp (N) with dL/dlogp, 0 where masked. Returns this micro-batch's
  // share of the loss: shares add up over micro-batches and ranks.
  virtual double loss_and_grad(device::View<const W, 1> logp, const Batch& batch, const BatchCounts& counts,
                               device::View<W, 1> dlogp) = 0;
  // dlogp does not depend on logp (cross-entropy): the device need not wait for the host between a forward and
  // its backward pass.
  virtual bool constant_grad() const { return false; }
};

template <class T>
using ObjectiveMaker = std::unique_ptr<Objective<T>> (*)(base::Section);
template <class T>
const std::vector<base::Entry<ObjectiveMaker<T>>>& objective_table();
template <class T>
std::unique_ptr<Objective<T>> make_objective(base::Section section);

}  // namespace cadre::optim
