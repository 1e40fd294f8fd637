// `cadre report`: one HTML file about one or more runs, without scripts or references to the network.
#pragma once

#include <string>
#include <vector>

#include "trainer/report/run_data.h"

namespace cadre::report {

std::string html_page(const std::vector<RunData>& runs);

}  // namespace cadre::report
