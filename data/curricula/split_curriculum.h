// A curriculum from one number a document: within each domain, documents above a cut are "high", the rest "low", and the
// share of high text follows an S-curve over the domain's own progress. Cuts are quantiles of a domain's tokens, so
// that no domain is early or late as a whole, and every global batch stays as diverse as the mixer makes it.
#pragma once

#include <optional>

#include "data/corpus.h"
#include "data/curricula/s_curve.h"
#include "data/curriculum.h"

namespace cadre::data {

struct SplitConfig {
  double cut = 0.5;  // share of a domain's tokens in its low documents
  SCurveConfig curve;
  bool reversed = false;  // high first
};
SplitConfig read_split(base::Section& section);

// By document: 1 where it lies above its domain's cut. Documents without a score (NaN) go to either side so that the
// cut holds; ties go by index.
std::vector<uint8_t> above_cut(const Corpus& units, const std::vector<double>& score, double cut,
                               bool reversed);

class SplitCurriculum final : public Curriculum {
 public:
  SplitCurriculum(const SplitConfig& config, const Corpus& units, const std::vector<double>& score);
  int num_buckets() const override { return 2; }
  int bucket(int64_t document) const override { return high_[size_t(document)]; }
  std::vector<double> quota(double domain_progress, int domain) const override;

 private:
  struct Share {
    double all;                   // of high text in the domain
    std::optional<SCurve> curve;  // none where so few documents cannot follow it: then `all` throughout
  };
  std::vector<uint8_t> high_;  // by document
  std::vector<Share> share_;   // by domain
};

}  // namespace cadre::data
