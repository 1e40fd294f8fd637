// A curriculum of several buckets in stages: bucket b is wanted most at its own time, and a table of buckets by stages with
// fixed sums of rows (each bucket's text) and columns (each stage's length) uses every document once.
#pragma once

#include "data/corpus.h"
#include "data/curriculum.h"

namespace cadre::data {

// (B, stages) shares of one domain's text: rows add up to `size` (sum 1), columns to 1 / stages, and entry (b, s) is
// proportional to exp(-sharpness (time[b] - (s + 1/2) / stages)^2) times factors of its row and column: the table with
// these sums that is nearest to the preference in relative entropy (Sinkhorn and Knopp's iteration).
std::vector<std::vector<double>> staged_shares(const std::vector<double>& size,
                                               const std::vector<double>& time, double sharpness, int stages);

class StagedCurriculum final : public Curriculum {
 public:
  // bucket: by document of `units`; time: by bucket, in [0, 1].
  StagedCurriculum(const Corpus& units, std::vector<uint8_t> bucket, const std::vector<double>& time,
                   double sharpness);
  int num_buckets() const override { return num_buckets_; }
  int bucket(int64_t document) const override { return bucket_[size_t(document)]; }
  std::vector<double> quota(double domain_progress, int domain) const override;

 private:
  int num_buckets_;
  std::vector<uint8_t> bucket_;
  std::vector<std::vector<std::vector<double>>> shares_;  // by domain
};

}  // namespace cadre::data
