// Selectors say which documents (pairs, prompts) a run trains on at all, or which sequences or tokens of a batch. One file
// a selector in selectors/, one row in selectors/table.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "parallel/base/table.h"

namespace cadre::data {

// What a selector does with every batch while the model trains, against a frozen reference: the units with the largest
// excess of the model's loss over the reference's are kept.
struct OnlineSelection {
  enum class Unit { kTokens, kSequences };
  Unit unit = Unit::kTokens;
  std::string reference;  // a checkpoint or run folder
  double keep = 1;        // share that is trained on
};

class Selector {
 public:
  virtual ~Selector() = default;
  // Indices of the units to train on, rising; nothing: all. `units` is what is planned, a corpus or the view of its
  // pairs. The same for the same seed and scores.
  virtual std::optional<std::vector<int64_t>> choose(const Corpus& units, uint64_t seed) const {
    return (void)units, (void)seed, std::nullopt;
  }
  virtual std::optional<OnlineSelection> online() const { return std::nullopt; }
};

using SelectorMaker = std::unique_ptr<Selector> (*)(base::Section);
const std::vector<base::Entry<SelectorMaker>>& selector_table();
std::unique_ptr<Selector> make_selector(base::Section section);

// The corpus with the selector's choice alone, documents numbered anew. Throws Error(kData) when nothing is left.
std::unique_ptr<Corpus> select_documents(const Selector& selector, std::unique_ptr<Corpus> corpus,
                                         uint64_t seed);
// The same for given units (pairs of a set of pairs), rising.
std::unique_ptr<Corpus> make_subset(std::unique_ptr<Corpus> corpus, const std::vector<int64_t>& units);

}  // namespace cadre::data
