// Reads the JSON of evaluation.h into one batch with a sequence a row.
#pragma once

#include <string>
#include <vector>

#include "optim/objective.h"

namespace cadre::optim {

struct EvaluationInput {
  bool pairs = false;
  std::vector<size_t> lengths;  // by sequence, in rows of `batch`
  Batch batch;
  BatchCounts counts;
  std::vector<double> logp;  // (N)
};

// Throws Error(kData) with the sequence, array and position of the first mistake.
EvaluationInput read_evaluation(const std::string& text, const std::string& source,
                                const ObjectiveInputs& inputs);

}  // namespace cadre::optim
