// The makers that table.cc lists; each is described at the top of the file that has its name.
#pragma once

#include "data/curriculum.h"

namespace cadre::data {

std::unique_ptr<Curriculum> make_none(base::Section section, const Corpus* units);
std::unique_ptr<Curriculum> make_length(base::Section section, const Corpus* units);
std::unique_ptr<Curriculum> make_score(base::Section section, const Corpus* units);
std::unique_ptr<Curriculum> make_pdpc(base::Section section, const Corpus* units);
std::unique_ptr<Curriculum> make_frame(base::Section section, const Corpus* units);

}  // namespace cadre::data
