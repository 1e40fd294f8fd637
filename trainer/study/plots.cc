#include "trainer/study/plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/report/style.h"

namespace cadre::study {
namespace {

using report::escaped;
using report::short_number;

struct Scale {  // of one axis: data to pixels
  double low, high, from, to;
  double at(double v) const { return from + (v - low) / (high - low) * (to - from); }
};

Scale scale_of(const std::vector<double>& values, double from, double to) {
  double low = INFINITY, high = -INFINITY;
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  if (low > high) low = 0, high = 1;
  const double room = high > low ? 0.06 * (high - low) : std::max(std::abs(high), 1e-9) * 0.01;
  return {low - room, high + room, from, to};
}

std::vector<double> ticks_of(const Scale& scale, int most) {
  const report::Ticks ticks = report::round_ticks(scale.low, scale.high, most);
  std::vector<double> values;
  for (int i = 0; i < ticks.count; ++i) {
    const double v = ticks.first + i * ticks.step;
    values.push_back(std::abs(v) < ticks.step * 1e-9 ? 0 : v);
  }
  return values;
}

std::string text(double x, double y, const char* anchor, const std::string& what) {
  return fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='{}'>{}</text>", x, y, anchor, escaped(what));
}

std::string x_axis(const Scale& x, double top, double bottom, const std::string& label) {
  std::string out = "<g class='grid'>";
  for (const double v : ticks_of(x, 6))
    out += fmt::format("<path d='M{:.1f} {:.1f}V{:.1f}'/>", x.at(v), top, bottom);
  out += "</g><g class='axis'>";
  for (const double v : ticks_of(x, 6)) out += text(x.at(v), bottom + 16, "middle", short_number(v));
  out += fmt::format("<path d='M{:.1f} {:.1f}H{:.1f}'/>", x.from, bottom, x.to);
  return out + text(x.to, bottom + 31, "end", label) + "</g>";
}

std::string figure(const std::string& title, const std::string& note, int width, int height,
                   const std::string& svg) {
  return fmt::format(
      "<figure><figcaption>{0}</figcaption>{1}<svg viewBox='0 0 {2} {3}' role='img' "
      "aria-label='{0}'>{4}</svg></figure>\n",
      escaped(title), note.empty() ? "" : "<p class='note'>" + escaped(note) + "</p>", width, height, svg);
}

}  // namespace

std::string dot_chart(const std::string& title, const std::string& x_label, const std::vector<DotRow>& rows) {
  constexpr double kRow = 24, kTop = 8;
  constexpr int kWidth = 760;
  size_t longest = 0;
  std::vector<double> all;
  for (const DotRow& row : rows) {
    longest = std::max(longest, row.label.size());
    all.insert(all.end(), row.values.begin(), row.values.end());
    all.insert(all.end(), {row.mean - row.half95, row.mean + row.half95});
  }
  const double left = std::min(320.0, 20 + 6.2 * double(longest)), bottom = kTop + kRow * double(rows.size());
  const Scale x = scale_of(all, left, kWidth - 14);
  std::string svg = x_axis(x, kTop, bottom, x_label);
  for (size_t i = 0; i < rows.size(); ++i) {
    const DotRow& row = rows[i];
    const double y = kTop + kRow * (double(i) + 0.5);
    svg += text(left - 8, y + 4, "end", row.label);
    if (std::isfinite(row.half95)) {
      svg += fmt::format("<path class='line s0' style='opacity:.45' d='M{:.1f} {:.1f}H{:.1f}'/>",
                         x.at(row.mean - row.half95), y, x.at(row.mean + row.half95));
    }
    for (const double v : row.values) {
      if (std::isfinite(v))
        svg += fmt::format("<circle class='f0' style='opacity:.6' cx='{:.1f}' cy='{:.1f}' r='3.2'/>", x.at(v),
                           y);
    }
    if (std::isfinite(row.mean))
      svg +=
          fmt::format("<path class='line s1' d='M{0:.1f} {1:.1f}V{2:.1f}'/>", x.at(row.mean), y - 7, y + 7);
  }
  return figure(title, "dots: every seed; stroke: mean; bar: 95% interval of the mean", kWidth,
                int(bottom) + 38, svg);
}

std::string scatter_chart(const std::string& title, const std::string& note, const std::string& x_label,
                          const std::string& y_label, const std::vector<ScatterPoints>& sets) {
  constexpr int kWidth = 480, kHeight = 360;
  constexpr double kTop = 22, kBottom = kHeight - 38.0;
  std::vector<double> xs, ys;
  for (const ScatterPoints& set : sets) {
    for (const report::Point& p : set.points) xs.push_back(p.x), ys.push_back(p.y);
  }
  const Scale x = scale_of(xs, 64, kWidth - 12), y = scale_of(ys, kBottom, kTop);
  std::string svg = x_axis(x, kTop, kBottom, x_label) + "<g class='axis'>";
  for (const double v : ticks_of(y, 6)) svg += text(58, y.at(v) + 3.5, "end", short_number(v));
  svg += text(64, kTop - 8, "start", y_label) + "</g>";
  for (size_t s = 0; s < sets.size(); ++s) {
    const size_t colour = s % report::kPaletteSize;
    for (const report::Point& p : sets[s].points) {
      if (!std::isfinite(p.x) || !std::isfinite(p.y)) continue;
      svg += fmt::format("<circle class='f{}' style='opacity:.6' cx='{:.1f}' cy='{:.1f}' r='2.8'/>", colour,
                         x.at(p.x), y.at(p.y));
    }
    if (sets.size() == 1) continue;
    const double line = kTop + 10 + 14 * double(s);
    svg += fmt::format("<circle class='f{}' cx='74' cy='{:.1f}' r='3.5'/>", colour, line) +
           text(82, line + 4, "start", sets[s].name);
  }
  return figure(title, note, kWidth, kHeight, svg);
}

std::string svg_document(const std::string& figure) {
  const size_t begin = figure.find("<svg "), end = figure.find("</svg>");
  if (begin == std::string::npos || end == std::string::npos) return "";
  const size_t inside = figure.find('>', begin) + 1;
  std::string head = figure.substr(begin, inside - begin);
  head.insert(5, "xmlns='http://www.w3.org/2000/svg' ");
  return head + "<style>svg{background:var(--bg);font-family:sans-serif}" + report::kStyle + "</style>" +
         figure.substr(inside, end + 6 - inside) + "\n";
}

std::string html_document(const std::string& title, const std::string& note, const std::string& body) {
  return fmt::format(
      "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
      "content='width=device-width'><meta name='color-scheme' content='light dark'><title>Cadre: "
      "{0}</title><style>{1}</style></head><body><main><header><h1>{0}</h1><p class='note'>{2}</p></header>\n"
      "{3}</main></body></html>\n",
      escaped(title), report::kStyle, escaped(note), body);
}

std::string html_section(const std::string& title, const std::string& note, const std::string& layout,
                         const std::string& body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2>{}<div class='{}'>{}</div></section>\n", escaped(title),
                     note.empty() ? "" : "<p class='note'>" + escaped(note) + "</p>", layout, body);
}

std::string html_table(const Table& table) {
  std::string out = "<div class='wide'><table>";
  for (size_t r = 0; r < table.size(); ++r) {
    out += "<tr>";
    for (const std::string& cell : table[r]) {
      const char* tag = r == 0 ? "th" : "td";
      out += fmt::format("<{0}>{1}</{0}>", tag, escaped(cell));
    }
    out += "</tr>";
  }
  return out + "</table></div>\n";
}

std::string markdown_table(const Table& table) {
  std::string out;
  for (size_t r = 0; r < table.size(); ++r) {
    out += fmt::format("| {} |\n", fmt::join(table[r], " | "));
    if (r > 0) continue;
    for (size_t c = 0; c < table[0].size(); ++c) out += "|---";
    out += "|\n";
  }
  return out;
}

}  // namespace cadre::study
