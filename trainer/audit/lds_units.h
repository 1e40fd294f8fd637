// The units of the linear datamodelling score: blocks of whole documents of one domain, and sets of them.
#pragma once

#include <memory>
#include <vector>

#include "trainer/audit/derived_corpus.h"

namespace cadre::audit {

struct Unit {
  int32_t domain = 0;
  std::vector<Part> parts;  // whole documents
};
// At most `blocks` units of each domain. Neighbouring documents go to different ones: shards may be sorted.
std::vector<Unit> make_units(const data::Corpus& text, int64_t blocks);
// The text of some units; borrows the source.
std::unique_ptr<data::Corpus> corpus_of(const data::Corpus& text, const std::vector<Unit>& units,
                                        const std::vector<size_t>& members);

// Half of `units` different units for each subset, a function of the subset's number.
std::vector<size_t> draw_half(size_t units, uint64_t subset);
// All units but one, for `count` of them.
std::vector<std::vector<size_t>> leave_one_out(size_t units, int64_t count);

}  // namespace cadre::audit
