// What the model should become good at: the held-out text whose loss influence is measured on.
#pragma once

#include <string>
#include <vector>

#include "trainer/run/dataset.h"

namespace cadre::trainer {

struct EvalSet;  // trainer/run/evaluate.h

struct InfluenceTarget {
  std::string name;  // "mean", or the domain's
  std::vector<int64_t> documents;
  std::vector<double> token_weight;  // by domain of the target text; the loss is the weighted sum of nats
};

// The text of dataset.target, or of dataset.valid. Of the latter, documents are taken from the end of each
// domain, since evaluation takes them from the beginning: then what a mixer learns from is not what it is judged
// by. Throws Error(kData) when there is no text, or too little to keep the two apart.
std::vector<InfluenceTarget> choose_targets(const RunConfig& config, const Dataset& dataset);
// The part of the held-out text that mixers may learn from. Throws as above.
EvalSet held_out_targets(const RunConfig& config, const data::Corpus& valid);
const data::Corpus& target_corpus(const RunConfig& config, const Dataset& dataset);

}  // namespace cadre::trainer
