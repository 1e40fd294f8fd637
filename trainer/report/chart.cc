#include "trainer/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cadre::report {
namespace {

struct Frame {  // the plot's rectangle in pixels and its range in data
  double left, top, right, bottom, x0, x1, y0, y1;
  bool log_y;
  double x(double v) const { return left + (v - x0) / (x1 - x0) * (right - left); }
  double y(double v) const {
    const double share = log_y ? std::log(v / y0) / std::log(y1 / y0) : (v - y0) / (y1 - y0);
    return bottom - share * (bottom - top);
  }
};

bool drawable(const Point& p, bool log_y) {
  return std::isfinite(p.x) && std::isfinite(p.y) && (!log_y || p.y > 0);
}

// The range of a line that is no raw one decides, so that noise does not flatten what matters; raw lines are clipped.
bool find_range(const std::vector<Line>& lines, const ChartOptions& options, Frame& f) {
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (const Line& line : lines) {
    for (size_t i = 0; i < line.points.size(); ++i) {
      const Point& p = line.points[i];
      if (!drawable(p, options.log_y)) continue;
      x0 = std::min(x0, p.x);
      x1 = std::max(x1, p.x);
      if (line.raw) continue;
      const double bar = i < line.errors.size() && std::isfinite(line.errors[i]) ? line.errors[i] : 0;
      y0 = std::min(y0, p.y - bar);
      y1 = std::max(y1, p.y + bar);
    }
  }
  if (x0 > x1 || y0 > y1) return false;
  if (options.from_zero) y0 = std::min(y0, 0.0), y1 = std::max(y1, 0.0);
  const double room = options.log_y ? 1 : std::max((y1 - y0) * 0.06, std::max(std::abs(y1), 1e-12) * 1e-3);
  if (options.log_y) {
    y0 /= 1.1, y1 *= 1.1;
  } else {
    y0 = options.from_zero && y0 == 0 ? 0 : y0 - room;
    y1 += room;
  }
  f.x0 = x0, f.x1 = x1 > x0 ? x1 : x0 + 1, f.y0 = y0, f.y1 = y1;
  return true;
}

std::string text(double x, double y, const char* anchor, const std::string& what, const char* more = "") {
  return fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='{}'{}>{}</text>", x, y, anchor, more,
                     escaped(what));
}

std::vector<double> tick_values(double low, double high, int most) {
  const Ticks ticks = round_ticks(low, high, most);
  std::vector<double> values;
  for (int i = 0; i < ticks.count; ++i) {
    const double v = ticks.first + i * ticks.step;
    values.push_back(std::abs(v) < ticks.step * 1e-9 ? 0 : v);
  }
  return values;
}

// Round numbers over less than a factor of five, 1, 2, 5 of each power of ten over less than a hundred, else powers of ten.
std::vector<double> log_ticks(double low, double high) {
  if (high / low < 5) return tick_values(low, high, 5);
  std::vector<double> values;
  const bool narrow = std::log10(high / low) < 2;
  for (int e = int(std::floor(std::log10(low))); e <= int(std::ceil(std::log10(high))); ++e) {
    for (const double m : {1.0, 2.0, 5.0}) {
      const double v = m * std::pow(10, e);
      if (v >= low && v <= high && (narrow || m == 1)) values.push_back(v);
    }
  }
  return values;
}

std::string axes(const Frame& f, const ChartOptions& options) {
  std::string out = "<g class='grid'>";
  const std::vector<double> ys = f.log_y ? log_ticks(f.y0, f.y1) : tick_values(f.y0, f.y1, 6);
  for (const double v : ys) {
    out += fmt::format("<path d='M{:.1f} {:.1f}H{:.1f}'/>", f.left, f.y(v), f.right);
  }
  out += "</g><g class='axis'>";
  for (const double v : ys) out += text(f.left - 6, f.y(v) + 3.5, "end", short_number(v));
  for (const double v : tick_values(f.x0, f.x1, std::max(2, int((f.right - f.left) / 80)))) {
    out += fmt::format("<path d='M{:.1f} {:.1f}v4'/>", f.x(v), f.bottom);
    out += text(f.x(v), f.bottom + 16, "middle", short_number(v));
  }
  out += fmt::format("<path d='M{:.1f} {:.1f}H{:.1f}'/>", f.left, f.bottom, f.right);
  if (!options.y_label.empty()) out += text(f.left, f.top - 7, "start", options.y_label, " class='unit'");
  out += text(f.right, f.bottom + 30, "end", "step", " class='unit'");
  return out + "</g>";
}

std::string path_of(const Series& points, const Frame& f) {
  std::string d;
  for (const Point& p : points) {
    if (!drawable(p, f.log_y)) continue;
    const double y = std::clamp(f.y(p.y), f.top - 1, f.bottom + 1);
    d += fmt::format("{}{:.1f} {:.1f}", d.empty() ? "M" : "L", f.x(p.x), y);
  }
  return d;
}

// Error bars as one path of strokes.
std::string bars_of(const Line& line, const Frame& f) {
  std::string d;
  for (size_t i = 0; i < std::min(line.points.size(), line.errors.size()); ++i) {
    const Point& p = line.points[i];
    const double e = line.errors[i];
    if (!drawable(p, f.log_y) || !std::isfinite(e) || (f.log_y && p.y <= e)) continue;
    d += fmt::format("M{:.1f} {:.1f}V{:.1f}", f.x(p.x), f.y(p.y - e), f.y(p.y + e));
  }
  return d;
}

std::string legend_of(const std::vector<Line>& lines) {
  std::string out = "<div class='legend'>";
  for (const Line& line : lines) {
    if (line.raw || line.points.empty()) continue;
    out += fmt::format("<span><i class='c{}'></i>{}</span>", line.colour % kPaletteSize, escaped(line.name));
  }
  return out + "</div>";
}

std::string figure(const ChartOptions& options, const std::string& svg, const std::string& below) {
  return fmt::format(
      "<figure><figcaption>{}</figcaption><svg viewBox='0 0 {} {}' role='img' "
      "aria-label='{}'>{}</svg>{}</figure>\n",
      escaped(options.title), options.width, options.height, escaped(options.title), svg, below);
}

Frame frame_of(const ChartOptions& options) {
  return {.left = 54,
          .top = 22,
          .right = double(options.width) - 12,
          .bottom = double(options.height) - 36,
          .x0 = 0,
          .x1 = 1,
          .y0 = 0,
          .y1 = 1,
          .log_y = options.log_y};
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += uint8_t(c) < 32 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return out;
}

std::string short_number(double x) {
  struct Unit {
    double size;
    const char* name;
  };
  static constexpr Unit kUnits[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
  for (const Unit& unit : kUnits) {
    if (std::abs(x) >= unit.size * (unit.size == 1e3 ? 10 : 1))
      return fmt::format("{:.4g}{}", x / unit.size, unit.name);
  }
  return fmt::format("{:.4g}", x);
}

Ticks round_ticks(double low, double high, int most) {
  if (!(high > low)) return {low, 1, 1};
  const double rough = (high - low) / std::max(1, most);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double m : {5.0, 2.0, 1.0}) {
    if (m * power >= rough * (1 - 1e-9)) step = m * power;
  }
  const double first = std::ceil(low / step - 1e-9);
  const double last = std::floor(high / step + 1e-9);
  return {first * step, step, int(last - first) + 1};
}

Series thinned(const Series& points, int most) {
  const size_t buckets = size_t(std::max(1, most / 2));
  if (points.size() <= size_t(most)) return points;
  Series out;
  for (size_t b = 0; b < buckets; ++b) {
    const size_t from = points.size() * b / buckets, to = points.size() * (b + 1) / buckets;
    size_t low = from, high = from;
    for (size_t i = from; i < to; ++i) {
      if (points[i].y < points[low].y) low = i;
      if (points[i].y > points[high].y) high = i;
    }
    out.push_back(points[std::min(low, high)]);
    if (low != high) out.push_back(points[std::max(low, high)]);
  }
  return out;
}

Series smoothed(const Series& points, double share) {
  Series out;
  if (points.empty()) return out;
  const double length = std::max(1.0, share * (points.back().x - points.front().x));
  double sum = 0, weight = 0, x = points.front().x;
  for (const Point& p : points) {
    if (!std::isfinite(p.y)) continue;
    const double keep = std::exp(-(p.x - x) / length);
    x = p.x;
    sum = keep * sum + p.y;
    weight = keep * weight + 1;
    out.push_back({p.x, sum / weight});
  }
  return out;
}

std::string line_chart(const ChartOptions& options, const std::vector<Line>& lines) {
  Frame f = frame_of(options);
  if (!find_range(lines, options, f)) return "";
  std::string svg = axes(f, options);
  constexpr int kMostPoints = 800;
  for (const bool raw : {true, false}) {
    for (const Line& line : lines) {
      if (line.raw != raw) continue;
      const std::string d = path_of(thinned(line.points, kMostPoints), f);
      if (d.empty()) continue;
      svg += fmt::format("<path class='line{} s{}' d='{}'><title>{}</title></path>", raw ? " raw" : "",
                         line.colour % kPaletteSize, d, escaped(line.name));
      if (const std::string bars = bars_of(line, f); !bars.empty())
        svg += fmt::format("<path class='line raw s{}' d='{}'/>", line.colour % kPaletteSize, bars);
    }
  }
  return figure(options, svg, options.legend ? legend_of(lines) : "");
}

std::string stacked_chart(const ChartOptions& options, const std::vector<Line>& lines) {
  constexpr int kMostPoints = 400;
  if (lines.empty() || lines[0].points.empty()) return "";
  Frame f = frame_of(options);
  const size_t count = lines[0].points.size(), stride = (count + kMostPoints - 1) / kMostPoints;
  f.x0 = lines[0].points.front().x;
  f.x1 = count > 1 ? lines[0].points.back().x : f.x0 + 1;
  f.y1 = 1;
  std::vector<double> base(count, 0);
  std::string areas;
  for (const Line& line : lines) {
    std::string up, down;
    for (size_t i = 0; i < std::min(count, line.points.size()); ++i) {
      const double from = base[i];
      base[i] += line.points[i].y;
      if (i % stride != 0 && i + 1 != count) continue;
      up += fmt::format("{}{:.1f} {:.1f}", up.empty() ? "M" : "L", f.x(line.points[i].x), f.y(base[i]));
      down = fmt::format("L{:.1f} {:.1f}", f.x(line.points[i].x), f.y(from)) + down;
    }
    areas += fmt::format("<path class='area f{}' d='{}{}Z'><title>{}</title></path>",
                         line.colour % kPaletteSize, up, down, escaped(line.name));
  }
  return figure(options, axes(f, options) + areas, legend_of(lines));
}

std::string heat_map(const HeatMap& map) {
  constexpr int kColours = 10;
  const size_t rows = map.rows.size(), columns = map.xs.size();
  if (rows == 0 || columns == 0) return "";
  const int row_height =
      map.row_height > 0 ? map.row_height : int(std::clamp(160.0 / double(rows), 4.0, 22.0));
  ChartOptions options;
  options.title = map.title;
  options.width = map.width;
  options.height = int(rows) * row_height + 66;
  const double left = 54, top = 22, right = map.width - 12, bottom = top + double(rows) * row_height;
  const double cell = (right - left) / double(columns);
  std::string by_colour[kColours];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) {
      const double v = map.cells[r][c];
      if (!std::isfinite(v)) continue;
      const int colour = std::clamp(int((v - map.low) / (map.high - map.low) * kColours), 0, kColours - 1);
      by_colour[colour] += fmt::format("M{:.1f} {:.1f}h{:.1f}v{}h-{:.1f}z", left + double(c) * cell,
                                       top + double(r) * row_height, cell + 0.3,
                                       row_height - (row_height > 6 ? 1 : 0), cell + 0.3);
    }
  }
  std::string svg;
  for (int k = 0; k < kColours; ++k) {
    if (!by_colour[k].empty()) svg += fmt::format("<path class='h{}' d='{}'/>", k, by_colour[k]);
  }
  svg += "<g class='axis'>";
  const size_t every =
      std::max<size_t>(1, (rows * 12 + rows * size_t(row_height) - 1) / (rows * size_t(row_height)));
  for (size_t r = 0; r < rows; r += every) {
    svg += text(left - 6, top + (double(r) + 0.5) * row_height + 3.5, "end", map.rows[r]);
  }
  svg += text(left, top - 7, "start", map.y_label, " class='unit'");
  const Frame f{left, top, right, bottom, map.xs.front(), columns > 1 ? map.xs.back() : map.xs.front() + 1,
                0,    1,   false};
  for (const double v : tick_values(f.x0, f.x1, int((right - left) / 80))) {
    svg += fmt::format("<path d='M{:.1f} {:.1f}v4'/>", f.x(v), bottom + 2) +
           text(f.x(v), bottom + 17, "middle", short_number(v));
  }
  svg += text(right, bottom + 32, "end", map.x_label, " class='unit'") + "</g>";
  std::string scale = "<div class='scale'><span>" + escaped(map.low_text) + "</span>";
  for (int k = 0; k < kColours; ++k) scale += fmt::format("<i class='h{}'></i>", k);
  return figure(options, svg, scale + "<span>" + escaped(map.high_text) + "</span></div>");
}

}  // namespace cadre::report
