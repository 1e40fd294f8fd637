// A checkpoint with its optimizer's state on one rank: gradients of documents, and the direction in which the optimizer
// would step along them.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "trainer/run/evaluate.h"
#include "trainer/selection/score_kind.h"

namespace cadre::trainer {

class GradientModel {
 public:
  explicit GradientModel(const ScoreInputs& inputs);

  // The gradient of a weighted sum of nats into the store: document d's tokens count weight(d) each. Of pairs the loss is
  // minus the margin: the rejected answer's tokens count against it (sign()).
  void differentiate(const data::Corpus& corpus, const std::vector<int64_t>& documents,
                     const std::function<double(int64_t)>& weight);
  // Trained tokens of a document.
  static double tokens(const data::Corpus& corpus, int64_t document);
  // -1 for the rejected answer of a pair, an odd document; else 1.
  static double sign(const data::Corpus& corpus, int64_t document);
  // Documents of what is scored as one: 2 of pairs, else 1.
  static int64_t unit(const data::Corpus& corpus);
  // Calls body(tensor, first element, values) for the whole gradient, or for P times it, P as the optimizer's last update
  // left it (ones before the first).
  using Body = std::function<void(const device::ParamRow&, int64_t, std::span<const float>)>;
  void visit(bool preconditioned, const Body& body);

  TrainState& state() { return *state_; }

 private:
  Dataset dataset_;
  std::unique_ptr<TrainState> state_;
};

// Documents of a target's domain, whose mean gradient stands for the domain.
struct TargetDomain {
  std::string name;
  std::vector<int64_t> documents;
  double tokens = 0;
};
// Domains with text, at least one; throws Error(kData) when there is none. As for the probes of a run, documents are
// taken from the end of each domain, since evaluation takes them from the beginning.
std::vector<TargetDomain> target_domains(const data::Corpus* targets, int64_t tokens_per_domain);

}  // namespace cadre::trainer
