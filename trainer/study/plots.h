// Plots of results as figures with inline SVG, in the report's style (trainer/report/style.h), and as files that stand
// alone.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/report/chart.h"

namespace cadre::study {

// One row for each entry: every value a dot, the mean a stroke, the interval a bar.
struct DotRow {
  std::string label;
  std::vector<double> values;
  double mean = 0, half95 = 0;  // half95 NaN: no bar
};
std::string dot_chart(const std::string& title, const std::string& x_label, const std::vector<DotRow>& rows);

struct ScatterPoints {
  std::string name;
  report::Series points;  // in any order
};
// `note` stands under the title ("Spearman 0.95"). Several sets get colours and a legend inside the plot.
std::string scatter_chart(const std::string& title, const std::string& note, const std::string& x_label,
                          const std::string& y_label, const std::vector<ScatterPoints>& sets);

// The SVG of a figure as a document of its own.
std::string svg_document(const std::string& figure);

// A whole page around figures and tables; `body` is HTML.
std::string html_document(const std::string& title, const std::string& note, const std::string& body);
std::string html_section(const std::string& title, const std::string& note, const std::string& layout,
                         const std::string& body);
// The first row is the head; cells are text.
using Table = std::vector<std::vector<std::string>>;
std::string html_table(const Table& table);
std::string markdown_table(const Table& table);

}  // namespace cadre::study
