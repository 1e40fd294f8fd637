// What of an influence probe depends on the type that the model is stored in: the gradients of a step, the direction D,
// and the tap that scores along it. Everything else (trainer/run/probe.h) works in W.
#pragma once

#include <memory>
#include <span>

#include "optim/optimizer.h"
#include "parallel/comm/shards.h"
#include "parallel/device/tap.h"
#include "trainer/run/model_state.h"

namespace cadre::trainer {

class ProbeStore {
 public:
  using W = device::wide_t<Real>;
  virtual ~ProbeStore() = default;

  virtual device::AnyTap* tap() = 0;
  // Scores of the tokens of the micro-batch that was just differentiated; see ScoreTap::finish.
  virtual std::span<const double> finish_scores(int64_t num_tokens) = 0;
  // mean = keep mean + (1 - keep) gradient, for the elements of one piece of the reduced gradients.
  virtual void blend_gradient(device::Group group, const comm::Piece& piece, double keep,
                              device::View<W, 1> mean) = 0;
  // D of a piece's elements, rounded to the storage type.
  virtual void set_direction(device::Group group, const comm::Piece& piece,
                             device::View<const W, 1> values) = 0;
  // The slices of all ranks to all ranks. Collective.
  virtual void gather_direction() = 0;
  // <D, gradient> over this rank's slices of the groups that count on it. Waits for the queue.
  virtual double direction_dot_gradient(const optim::OwnedSlices& slices) = 0;
  // How far the sum of scores may be from <D, gradient>, relative to the sum of absolute scores: what rounding does.
  virtual double tolerance() const = 0;
};

// All borrowed. max_tokens: of a micro-batch on one rank.
std::unique_ptr<ProbeStore> make_probe_store(ModelState& model, comm::Reducer& reducer, int64_t max_tokens);

}  // namespace cadre::trainer
