// Pass 2, on rank 0: which documents stay, and in which split. Decided from hashes and signatures alone, by
// rules that look only at sets of documents and their order in the input, so that memory and the number of
// workers change nothing:
//   - of equal texts the first stays, whatever their domains;
//   - a text is held out when its hash says so. That never changes when inputs grow, and a held-out text is
//   never dropped
//     for being a near duplicate;
//   - within a domain, the documents that agree in one band of their signatures form a bucket. In each
//   bucket, held-out
//     documents first and then in input order, a document goes when it is near (estimated similarity at least
//     the threshold) to one that the bucket has kept before it. So no training document of a domain that is
//     found to be near to one of its held-out documents stays. A bucket compares with its first 64 kept
//     documents.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "data/prepare/parts.h"
#include "data/prepare/work.h"

namespace cadre::data {

void select_documents(const Work& work);  // collective; writes the choice part

// The choice part, opened.
class Choices {
 public:
  explicit Choices(const Work& work);
  const std::vector<std::string>& domains() const { return domains_; }  // sorted; those that kept a document
  int64_t documents(int64_t unit) const { return first_[unit + 1] - first_[unit]; }
  std::vector<Choice> of_unit(int64_t unit) const;
  // Domain ids of the unit's own domain list; -1 for one that kept nothing.
  std::vector<int> domain_ids(const Work& work, int64_t unit) const;
  const std::array<int64_t, 4>& counts() const { return counts_; }  // by Choice

 private:
  PartReader part_;
  std::vector<std::string> domains_;
  std::vector<int64_t> first_;  // (units + 1)
  std::array<int64_t, 4> counts_ = {};
};

}  // namespace cadre::data
