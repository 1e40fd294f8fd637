// Views of a corpus for experiments: some of its documents, pieces of them, other labels, or their tokens shuffled.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"

namespace cadre::audit {

// Tokens [begin, begin + length) of a document of the source, as a document of its own.
struct Part {
  int64_t document = 0, begin = 0, length = 0;  // length >= 2
  int32_t domain = 0;
  bool shuffled = false;  // all tokens but the first in an order that depends on the part alone
};

// The source is borrowed and outlives the result. Bytes of a part are its share of its document's.
std::unique_ptr<data::Corpus> make_derived_corpus(const data::Corpus& source,
                                                  std::vector<std::string> domains, std::vector<Part> parts);

std::vector<std::string> domain_names(const data::Corpus& corpus);
// Every document whole.
std::vector<Part> whole_documents(const data::Corpus& corpus);
// Documents cut into passages of at most `tokens` tokens, which do not overlap; a rest of less than half of that
// is left out, unless it is the whole document.
std::vector<Part> passages(const data::Corpus& corpus, int64_t tokens);
// Numbers of `count` documents spread evenly over `available`; of all of them when there are fewer.
std::vector<int64_t> spread(int64_t available, int64_t count);

}  // namespace cadre::audit
