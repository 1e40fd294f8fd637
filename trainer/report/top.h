// The screen of `cadre top`: where a run stands, from its folder alone.
#pragma once

#include <string>

#include "trainer/report/run_data.h"

namespace cadre::report {

// Bars of eight heights for the newest values, scaled to their own range; UTF-8, `width` characters at most.
std::string sparkline(const Series& points, int width);
// Lines of at most `width` characters.
std::string top_screen(const RunData& run, int width);

}  // namespace cadre::report
