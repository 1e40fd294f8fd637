// Optimizers update a rank's slices of the parameters (ZeRO-1) from reduced gradients. One file an optimizer
// in optimizers/, one row in optimizers/table.cc. State tensors have the length of the rank's slices and are
// saved under the names of the parameters, so that any layout can load them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optim/kernels.h"
#include "optim/owned_slices.h"
#include "parallel/base/table.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"

namespace cadre::optim {

template <class T>
struct OptimizerContext : OwnedSlices {
  device::Queue* queue = nullptr;                     // borrowed, as all of these
  const device::DeviceKernels<T>* kernels = nullptr;  // Muon needs the GEMM
  const OptimKernels<T>* optim_kernels = nullptr;
  device::ParamStore<T>* store = nullptr;
  uint64_t seed = 0;     // of random rounding
  bool planned = false;  // only bytes() will be asked for: nothing is allocated

  device::Buffer allocate(size_t bytes) const {
    if (planned) return device::Buffer::planned(bytes);
    return device::Buffer(queue ? queue->kind() : device::DeviceKind::kCpu, bytes);
  }
};

// W: the type of states, wide_t of the storage type.
template <class W>
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // One update of the rank's slices. grad_scale multiplies every gradient (the clip coefficient). updated: see
  // for_each_piece.
  virtual void step(double lr, double grad_scale, const BucketHook& updated = {}) = 0;
  // Names of the state tensors ("m", "v"), and one of them for a group, indexed by Piece::state_offset.
  virtual std::vector<std::string> state_names() const = 0;
  // False where a row has no use for a state tensor; checkpoints leave it out.
  virtual bool has_state(const std::string& name, const device::ParamRow& row) const {
    return (void)name, (void)row, true;
  }
  virtual device::View<W, 1> state(const std::string& name, device::Group group) = 0;
  // The same where states are kept in bf16: then this is not empty, and state() is.
  virtual device::View<device::bf16, 1> narrow_state(const std::string& name, device::Group group) {
    return (void)name, (void)group, device::View<device::bf16, 1>();
  }
  virtual size_t bytes() const = 0;  // of device memory
  // After masters and updates() came from a checkpoint: makes weights again that are not the masters rounded to the
  // nearest.
  virtual void restore_values() {}
  // out = P grad for one piece's elements, P as the last update left it (Adam: 1/(sqrt(vhat) + eps); ones
  // before the first update). In the queue's order, on its device. For influence.
  virtual void precondition(device::Group group, const comm::Piece& piece, device::View<const W, 1> grad,
                            device::View<W, 1> out) const = 0;
  int64_t updates() const { return updates_; }  // applied so far; bias correction counts these, not steps
  void set_updates(int64_t updates) { updates_ = updates; }

 protected:
  int64_t updates_ = 0;
};

template <class T>
using OptimizerMaker = std::unique_ptr<Optimizer<device::wide_t<T>>> (*)(base::Section, OptimizerContext<T>);
template <class T>
const std::vector<base::Entry<OptimizerMaker<T>>>& optimizer_table();
// Reads the `optim` section; its `lr` belongs to the schedule and is returned by read_peak_lr.
template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_optimizer(base::Section section,
                                                             OptimizerContext<T> context);
double read_peak_lr(base::Section section);

}  // namespace cadre::optim
