// Single AdamW steps from a saved moment of a run, tried and taken back. One rank, on the CPU.
#pragma once

#include <array>
#include <vector>

#include "optim/optimizers/adamw.h"
#include "trainer/influence/score_tap.h"
#include "trainer/run/document_rows.h"
#include "trainer/run/influence_targets.h"
#include "trainer/run/train_state.h"

namespace cadre::audit {

// One number for each parameter: a group's flat buffer after the other.
using Flat = std::vector<trainer::Real>;
double dot(const Flat& x, const Flat& y);

// Mean gradient of the text loss over some documents: balance losses stay out, so that gradients of document sets
// add up in proportion to their tokens.
struct TextGradient {
  Flat mean;
  double tokens = 0;
  double score = 0;  // sum of the tap's scores along the direction, per token; 0 without one
};

class OneStep {
 public:
  // Both borrowed; the state's values and optimizer are the moment. Throws Error(kUsage) for several ranks, another
  // device, or an optimizer that is not AdamW, or one without a step yet.
  OneStep(trainer::TrainState& state, const data::Corpus& target_corpus, trainer::InfluenceTarget target);

  // direction: scores the documents along it as a probe does (trainer/influence); null: no scores.
  TextGradient text_gradient(const data::Corpus& corpus, const std::vector<int64_t>& documents,
                             const Flat* direction);
  Flat target_gradient() { return target_gradient(target_); }
  Flat target_gradient(const trainer::InfluenceTarget& target);  // of another target in the same text
  Flat target_gradient_after(const Flat& gradient, double lr);   // where the real step leads
  double target_loss();
  Flat precondition(const Flat& gradient);  // Adam's, as the last update left it

  // The target's loss after one step along the gradient. frozen: with v as the last update left it. Leaves everything
  // as it was.
  double loss_after(const Flat& gradient, double lr, bool frozen);
  // min(1, clip_norm / norm), and that of the run file.
  double clip_scale(const Flat& gradient) const;
  // How much of an added gradient Adam's first moment lets through at once: (1 - b1) / (1 - b1^t), t counting the
  // step to come.
  double moment_share() const;

 private:
  void real_step(const Flat& gradient, double lr);
  void restore();  // values, optimizer
  void set_values(const Flat& values);
  void set_gradient(const Flat& gradient);
  void frozen_step(const Flat& gradient, double lr, double scale);
  Flat gradient() const;  // of the store
  int64_t base_of(device::Group group) const;
  template <class Body>
  void for_pieces(const Body& body) const;

  trainer::TrainState& state_;
  const data::Corpus& target_corpus_;
  trainer::InfluenceTarget target_;
  trainer::DocumentRows target_rows_;
  optim::AdamWConfig adamw_;
  device::ParamStore<trainer::Real> direction_;
  trainer::ScoreTap<trainer::Real> tap_;
  Flat values_;
  std::array<std::vector<trainer::Real>, device::kNumGroups> m_, v_;
  int64_t updates_ = 0;
};

}  // namespace cadre::audit
