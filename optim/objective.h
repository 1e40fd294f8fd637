// What is optimised: a function of the log-probability of each target token. One file an objective in
// objectives/, one row in objectives/table.cc. Everything divides by global counts, so ranks and
// micro-batches cannot change the loss.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "optim/advantage.h"
#include "parallel/base/batch.h"
#include "parallel/base/table.h"
#include "parallel/device/view.h"

namespace cadre::optim {

// What a batch must hold beside tokens. A missing array throws Error(kData) in loss_and_grad.
struct ObjectiveInputs {
  bool pairs = false;      // segments come in pairs (dpo)
  bool advantage = false;  // of each segment, made by compute_advantages(advantage_kind, ...)
  bool old = false, rollout = false, reference = false;  // log-probabilities
  AdvantageKind advantage_kind = AdvantageKind::kMeanStd;
};

// What an objective saw of one sequence, for metrics. Of pairs, what it saw of one response.
struct SequenceRecord {
  double tokens = 0;     // trained; a sequence without any has a record too, and is in no metric
  double advantage = 0;  // of pairs: beta * (log pi - log pi_reference), the implicit reward
  double log_w = 0;      // log of pi / behaviour over the sequence, as used: clamped, with what tis_cap adds
  double log_ratio = 0;  // the same without clamps and without tis_cap
  double log_tis = 0;    // sum of the clamped log-weights of tis_cap
  double phi = 0;        // mean over tokens of the weight on -advantage * dlogp
};

using NamedValues = std::vector<std::pair<std::string, double>>;

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
  virtual ObjectiveInputs inputs() const { return {}; }
  // Settings that every line of metrics repeats, so that it can be read without the run file.
  virtual NamedValues settings() const { return {}; }
  // One record a segment since the last call, in order of appearance; none from objectives without advantages
  // or pairs.
  std::vector<SequenceRecord> take_records() { return std::exchange(records_, {}); }

 protected:
  std::vector<SequenceRecord> records_;
};

template <class T>
using ObjectiveMaker = std::unique_ptr<Objective<T>> (*)(base::Section);
template <class T>
const std::vector<base::Entry<ObjectiveMaker<T>>>& objective_table();
template <class T>
std::unique_ptr<Objective<T>> make_objective(base::Section section);

}  // namespace cadre::optim
