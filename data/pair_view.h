// A set of pairs as the planner sees it: one document a pair, whose positions are those of both answers.
#pragma once

#include <limits>
#include <memory>

#include "data/corpus.h"

namespace cadre::data {

// `pairs` is borrowed and has kind kPreference. Throws Error(kData) when a pair has more than seq_len positions: a pair
// is never cut. The view's documents have lengths, domains and the scores of their first answers (of a margin, both have
// the same); they cannot be read.
std::unique_ptr<Corpus> make_pair_view(const Corpus& pairs,
                                       int64_t seq_len = std::numeric_limits<int64_t>::max());

}  // namespace cadre::data
