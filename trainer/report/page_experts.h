// The parts of the report about experts: heat maps of their load, and of which domains use which.
#pragma once

#include <string>

#include "trainer/report/run_data.h"

namespace cadre::report {

// Load over the run, by layer and for some layers by expert; "" without samples.
std::string expert_load(const RunData& run);
// Of the newest line that has them: which share of each domain's tokens goes to each expert, over an even share.
std::string domain_experts(const RunData& run);

}  // namespace cadre::report
