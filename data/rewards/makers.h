// The makers that table.cc lists; each is described at the top of the file that has its name.
#pragma once

#include "data/reward.h"

namespace cadre::data {

std::unique_ptr<Reward> make_exact_match(base::Section section);
std::unique_ptr<Reward> make_numeric(base::Section section);
std::unique_ptr<Reward> make_regex(base::Section section);
std::unique_ptr<Reward> make_json_schema(base::Section section);
std::unique_ptr<Reward> make_program(base::Section section);

}  // namespace cadre::data
