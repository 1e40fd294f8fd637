// The makers that table.cc lists; each is described at the top of the file that has its name.
#pragma once

#include "data/task.h"

namespace cadre::data {

std::unique_ptr<Task> make_arithmetic();
std::unique_ptr<Task> make_counting();
std::unique_ptr<Task> make_sorting();
std::unique_ptr<Task> make_bases();
std::unique_ptr<Task> make_string_edits();
std::unique_ptr<Task> make_logic_grids();

}  // namespace cadre::data
