// Influence probes during training. A probe takes the gradient of each target's loss, turns it into the direction
// D in which the optimizer would move, and scores the documents of the next few ordinary batches along it while
// they are trained on (trainer/influence/score_tap.h). It changes nothing that training computes.
//
// With M targets the scored steps go round them, one direction a step: a direction costs one GEMM a layer. A probe reads
// a part of a target's text (target_windows.h); the gradient of a target is a moving average over probes, at first the
// plain mean, and kept in the optimizer's slices; D is made again for every scored step, from the optimizer's state of
// that moment. Scores are multiplied by the batch's trained
// tokens, so that they do not depend on the size of the batch: influence per token is their sum over tokens.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "parallel/base/batch.h"
#include "trainer/influence/piece_scores.h"
#include "trainer/run/influence_targets.h"
#include "trainer/run/model_state.h"
#include "trainer/run/probe_store.h"
#include "trainer/run/target_windows.h"

namespace cadre::trainer {

struct ProbeContext {  // all borrowed; they outlive the probe
  ModelState* model = nullptr;
  comm::Reducer* reducer = nullptr;
  optim::Optimizer<Real>* optimizer = nullptr;
  const optim::OwnedSlices* slices = nullptr;
  int num_domains = 0;  // of the training text
};

struct ProbeReport {
  std::vector<std::string> targets;
  std::vector<InfluenceSums> sums;  // by target
  // |sum of scores - <D, batch gradient>| over the sum of |scores of tokens|, the largest of its steps.
  double identity_error = 0;
};

class Probe {
 public:
  using W = device::wide_t<Real>;
  Probe(const RunConfig& config, const Dataset& dataset, const ProbeContext& context);
  ~Probe();

  // In this order in every step; all but tap() are collective. `due`: begin a probe unless one is under way.
  void begin_step(bool due);     // before the gradients are zeroed: uses their memory
  device::AnyTap* tap();         // null in a step that is not scored
  void add(const Batch& micro);  // after its backward pass, when tap() is not null
  // With the gradients reduced. Throws Error(kNumeric) when the scores do not add up to <D, batch gradient>. A
  // skipped step is not counted. Returns a report when this step was the probe's last.
  std::optional<ProbeReport> end_step(const BatchCounts& counts, bool skipped);

  const std::vector<std::string>& targets() const { return names_; }
  // A probe under way goes on after a restart. State by name ("mean"), indexed by Piece::state_offset.
  nlohmann::json save() const;
  void load(const nlohmann::json& state);  // Error(kCheckpoint) when it does not fit
  void forget() { probes_ = left_ = 0; }   // as if there had been no probe
  device::View<W, 1> gradient(size_t target, device::Group group);
  bool has_gradients() const { return probes_ > 0; }

 private:
  void measure(size_t target, double keep);
  void point(size_t target);

  const InfluenceConfig config_;
  const ProbeContext context_;
  const data::Corpus& corpus_;
  std::unique_ptr<ProbeStore> store_;
  std::vector<InfluenceTarget> targets_;
  std::vector<std::string> names_;
  std::vector<TargetWindows> windows_;                                     // by target
  std::vector<std::array<device::Buffer, device::kNumGroups>> gradients_;  // by target: this rank's slices
  device::Buffer moved_;                                                   // a part of D on its way, in W
  int64_t steps_;                                                          // that a probe scores
  int64_t probes_ = 0;                                                     // begun so far
  int64_t left_ = 0;  // steps of the probe under way that are not scored yet
  bool scoring_ = false;
  double identity_error_ = 0;              // the largest of the probe under way
  std::vector<DocumentScores> documents_;  // by target: of the probe under way, from all ranks
  DocumentScores step_documents_;          // of this step, from this rank
  double step_score_ = 0, step_size_ = 0;  // this rank's scores: sum, sum of absolute values by token
};

}  // namespace cadre::trainer
