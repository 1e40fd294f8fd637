#include "trainer/report/top.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/report/chart.h"

namespace cadre::report {
namespace {

const Series* find(const RunData& run, const std::string& name) {
  const auto it = run.train.find(name);
  return it == run.train.end() || it->second.empty() ? nullptr : &it->second;
}

std::string row(const RunData& run, const char* title, const std::string& name, const char* unit, int width) {
  const Series* series = find(run, name);
  if (series == nullptr) return "";
  constexpr int kText = 38;
  const std::string number = fmt::format("{} {}", short_number(series->back().y), unit);
  return fmt::format("  {:<16}{:<20}  {}\n", title, number,
                     sparkline(*series, std::max(0, width - kText - 4)));
}

// `steps:` of the run file's train section.
std::string total_steps(const RunData& run) {
  const size_t train = run.config.find("\ntrain:"), steps = run.config.find("\n  steps: ", train);
  if (train == std::string::npos || steps == std::string::npos) return "?";
  const size_t from = steps + 10;
  return run.config.substr(from, run.config.find('\n', from) - from);
}

}  // namespace

std::string sparkline(const Series& points, int width) {
  const size_t count = std::min(points.size(), size_t(std::max(0, width)));
  double low = INFINITY, high = -INFINITY;
  for (size_t i = points.size() - count; i < points.size(); ++i) {
    low = std::min(low, points[i].y);
    high = std::max(high, points[i].y);
  }
  std::string out;
  for (size_t i = points.size() - count; i < points.size(); ++i) {
    const double share = high > low ? (points[i].y - low) / (high - low) : 0;
    out += "\xe2\x96";
    out += char(0x81 + std::clamp(int(share * 8), 0, 7));  // U+2581 to U+2588
  }
  return out;
}

std::string top_screen(const RunData& run, int width) {
  std::string out = fmt::format("{}  step {} of {}\n\n", run.name, run.step, total_steps(run));
  out += row(run, "loss", "loss", "nats", width);
  out += row(run, "gradient norm", "grad_norm", "", width);
  out += row(run, "speed", "tokens_per_s", "tokens/s", width);
  out += row(run, "step", "step_ms", "ms", width);
  out += row(run, "MFU", "mfu", "", width);
  out += row(run, "memory", "mem_gib", "GiB", width);
  out += row(run, "expert load, cv", "expert_load_cv", "", width);
  const auto domains = run.train_by.find("domain_loss");
  if (domains != run.train_by.end()) out += "\n";
  for (const auto& [domain, series] :
       domains == run.train_by.end() ? std::map<std::string, Series>() : domains->second) {
    out += fmt::format("  {:<16.16}{:<20}  {}\n", domain, short_number(series.back().y),
                       sparkline(series, std::max(0, width - 42)));
  }
  if (!run.events.empty()) out += "\n";
  constexpr size_t kEvents = 5;
  for (size_t i = run.events.size() - std::min(kEvents, run.events.size()); i < run.events.size(); ++i) {
    const Event& e = run.events[i];
    out += fmt::format("  {:.{}}\n", fmt::format("step {:<8} {}: {}", e.step, e.name, e.message),
                       std::max(1, width - 4));
  }
  return out;
}

}  // namespace cadre::report
