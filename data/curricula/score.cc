// Documents (pairs, prompts) with low scores before those with high ones, by any column of a score file: the margin of a
// reference on pairs, the pass rate of prompts, influence, loss. `reversed` puts high scores first.
#include "data/corpus.h"
#include "data/curricula/makers.h"
#include "data/curricula/split_curriculum.h"

namespace cadre::data {

std::unique_ptr<Curriculum> make_score(base::Section section, const Corpus* units) {
  const SplitConfig config = read_split(section);
  const std::string scores = section.text("scores", "score"), column = section.text("column", "score");
  section.finish();
  if (units == nullptr) return std::make_unique<Curriculum>();
  return std::make_unique<SplitCurriculum>(config, *units, units->scores(scores).column(column));
}

}  // namespace cadre::data
