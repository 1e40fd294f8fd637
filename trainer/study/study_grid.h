// The runs that a study file asks for: stages, and all combinations of a grid's variants and axes.
#pragma once

#include <functional>

#include "trainer/study/study_config.h"

namespace cadre::study {

// Appends the runs of `set`, `axes` and `variants`, the last axis fastest. Throws Error(kUsage) naming the line.
void add_grid(base::Section& section, Part part, std::vector<StudyRun>& runs);
// Appends the runs of `stages`, in the order of the file.
void add_stages(const base::Section& section, std::vector<StudyRun>& runs);

// One line of YAML that reads back as the node.
std::string one_line(const YAML::Node& node);
void each_scalar(YAML::Node node, const std::function<void(YAML::Node)>& body);
Overrides overrides_of(const base::Section& section, const YAML::Node& map);

}  // namespace cadre::study
