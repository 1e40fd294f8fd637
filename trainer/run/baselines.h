// What any model must beat: a unigram and a bigram model of the same tokens, fitted on the whole training
// split, scored on the same held-out documents in the same unit.
#pragma once

#include <absl/container/flat_hash_map.h>

#include "trainer/run/evaluate.h"

namespace cadre::trainer {

// Counts of tokens and of pairs. Unigram: add-one smoothed. Bigram: absolute discounting, interpolated with
// the unigram (Ney, Essen & Kneser 1994): p(b | a) = max(c(ab) - d, 0) / c(a) + d n(a) / c(a) p(b), with n(a)
// the number of different followers and d = n1 / (n1 + 2 n2) from the pairs seen once and twice. An unseen a
// gives the unigram.
class NgramBaselines {
 public:
  NgramBaselines(const data::Corpus& train, int64_t vocab);
  double unigram_logp(int32_t token) const;
  double bigram_logp(int32_t previous, int32_t token) const;
  std::vector<DomainScore> unigram(const data::Corpus& corpus, const EvalSet& set) const;
  std::vector<DomainScore> bigram(const data::Corpus& corpus, const EvalSet& set) const;

 private:
  template <class LogProb>
  std::vector<DomainScore> run(const data::Corpus& corpus, const EvalSet& set, const LogProb& logp) const;
  int64_t vocab_;
  double total_ = 0, discount_ = 0;
  std::vector<double> count_;                      // (V) as a target
  std::vector<double> context_count_, followers_;  // (V) as a context
  absl::flat_hash_map<uint64_t, uint32_t> pairs_;  // a * V + b
};

}  // namespace cadre::trainer
