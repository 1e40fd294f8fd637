// PDPC (arXiv 2501.13126): text that a strong reference fits much better than a weak one comes late. The share of such
// text follows an S-curve over a domain's own progress that uses each document once; the cut is the domain's median. The
// score and the constants are ours.
#include "data/curricula/makers.h"
#include "data/curricula/perplexity.h"
#include "data/curricula/split_curriculum.h"

namespace cadre::data {

std::unique_ptr<Curriculum> make_pdpc(base::Section section, const Corpus* units) {
  const SplitConfig config = read_split(section);
  const ReferencePair references = read_references(section);
  section.finish();
  if (units == nullptr) return std::make_unique<Curriculum>();
  return std::make_unique<SplitCurriculum>(config, *units, perplexity_scores(references, *units).difference);
}

}  // namespace cadre::data
