// Held-out loss by domain. Each domain's documents are taken in the corpus's order, whole, until the number
// of tokens is reached; every token but bos is predicted once, each document on its own. The set does not
// depend on ranks or batch sizes.
#pragma once

#include <string>
#include <vector>

#include "trainer/run/train_state.h"

namespace cadre::trainer {

// Documents to evaluate on, by rising index, and what they hold by domain.
struct EvalSet {
  std::vector<int64_t> documents;
  // (K) predicted tokens; bytes of the original text, 0 in sets of conversations, of which only answers count
  std::vector<int64_t> tokens, bytes;
};
EvalSet choose_documents(const data::Corpus& corpus, int64_t tokens_per_domain, bool from_the_end = false);

struct DomainScore {
  std::string domain;
  int64_t tokens = 0, bytes = 0;
  double nats = 0;  // over all targets, eos included
  double loss() const { return tokens > 0 ? nats / double(tokens) : 0; }
  // Bits that the model needs for each byte of the original text.
  double bits_per_byte() const;
};
// Puts a set's nats by domain together with what it holds.
std::vector<DomainScore> score(const data::Corpus& corpus, const EvalSet& set,
                               const std::vector<double>& nats);

// Collective over data ranks; the same result on all. `micro_batch` rows of the model's sequence length at a
// time.
std::vector<DomainScore> evaluate(ModelState& model, const data::Corpus& corpus, const EvalSet& set,
                                  int64_t micro_batch);

}  // namespace cadre::trainer
