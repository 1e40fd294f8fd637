// The table of curricula.
#include "data/curricula/none.h"

namespace cadre::data {

const std::vector<base::Entry<CurriculumMaker>>& curriculum_table() {
  static const std::vector<base::Entry<CurriculumMaker>> table = {
      {"none", "documents of a domain in random order", make_none},
  };
  return table;
}

std::unique_ptr<Curriculum> make_curriculum(base::Section section) {
  const std::string name = section.text("name", "none");
  return base::find_entry(curriculum_table(), "curriculum", name).make(section);
}

}  // namespace cadre::data
