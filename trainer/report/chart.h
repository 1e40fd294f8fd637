// Charts as inline SVG, with colours from CSS variables so that one file suits light and dark screens: lines, stacked
// shares, heat maps.
#pragma once

#include <string>
#include <vector>

#include "trainer/report/run_data.h"

namespace cadre::report {

// Text made safe to stand in HTML, in attributes too.
std::string escaped(const std::string& text);
// "1.5", "20k", "3.2M", "0.0012"
std::string short_number(double x);

struct Ticks {
  double first = 0, step = 1;
  int count = 0;
};
// At most `most` round numbers (1, 2 or 5 times a power of ten) inside [low, high].
Ticks round_ticks(double low, double high, int most);

struct Line {
  std::string name;
  int colour = 0;    // index of the palette
  Series points;     // at most one x a step; not finite values are left out
  bool raw = false;  // drawn thin and pale, without a legend: what a smoothed line was made from
  std::vector<double> errors = {};  // half the length of each point's error bar; empty: none
};
struct ChartOptions {
  std::string title, y_label = {};  // y_label: the unit
  int width = 560, height = 280;
  bool from_zero = false;
  bool log_y = false;
  bool legend = true;
};
// A figure with title, axes, grid, lines and legend; "" when no line has a point.
std::string line_chart(const ChartOptions& options, const std::vector<Line>& lines);
// Shares stacked from 0 up; the lines have the same x values.
std::string stacked_chart(const ChartOptions& options, const std::vector<Line>& lines);

struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<double> xs;                  // columns: steps
  std::vector<std::string> rows;           // names, from the top
  std::vector<std::vector<double>> cells;  // (rows, columns); NaN is left blank
  double low = 0, high = 1;                // of the colour scale
  std::string low_text, high_text;         // what its ends mean
  int width = 560, row_height = 0;         // 0: chosen by the number of rows
};
std::string heat_map(const HeatMap& map);

// At most `most` points, for drawing: of each piece of the x axis the smallest and the largest.
Series thinned(const Series& points, int most);
// Exponential average over steps; `share` of the range is its time constant.
Series smoothed(const Series& points, double share);

inline constexpr int kPaletteSize = 8;

}  // namespace cadre::report
