// The table of curricula.
#include "data/curricula/makers.h"
#include "parallel/base/named_entry.h"

namespace cadre::data {

const std::vector<base::Entry<CurriculumMaker>>& curriculum_table() {
  static const std::vector<base::Entry<CurriculumMaker>> table = {
      {"none", "documents of a domain in random order", make_none},
      {"length", "short documents of a domain before long ones, {low, high, steepness, cut, reversed}",
       make_length},
      {"score", "low scores of a score file before high ones, {scores, column}", make_score},
      {"pdpc", "what only a strong model fits late: perplexity difference, {weak, strong}", make_pdpc},
      {"frame", "quadrants: high perplexity first, low difference first, {weak, strong}", make_frame},
  };
  return table;
}

std::unique_ptr<Curriculum> make_curriculum(base::Section section, const Corpus* units) {
  const std::string name = section.text("name", "none");
  return base::find_entry(curriculum_table(), "curriculum", section, name).make(section, units);
}

}  // namespace cadre::data
