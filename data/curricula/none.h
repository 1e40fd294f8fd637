// The curriculum without order: one bucket.
#pragma once

#include "data/curriculum.h"

namespace cadre::data {

std::unique_ptr<Curriculum> make_none(base::Section section);

}  // namespace cadre::data
