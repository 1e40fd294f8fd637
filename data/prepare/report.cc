#include "data/prepare/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace cadre::data {
namespace {

using nlohmann::ordered_json;

constexpr std::array<std::string_view, kNumProblems> kNames = {
    "unreadable_file", "damaged_archive", "broken_json", "no_text",         "invalid_utf8",
    "empty",           "too_short",       "too_long",    "exact_duplicate", "near_duplicate"};
constexpr std::array<std::string_view, kNumProblems> kWords = {
    "cannot be read", "damaged compressed file",  "broken JSON", "no text",         "invalid UTF-8 (kept)",
    "empty document", "shorter than --min-chars", "too long",    "exact duplicate", "near duplicate"};

double ratio(int64_t a, int64_t b) {
  return b > 0 ? static_cast<double>(a) / static_cast<double>(b) : 0.0;
}

std::string domain_table(const Manifest& manifest) {
  size_t width = 6;
  for (const DomainInfo& d : manifest.splits[0].domains) width = std::max(width, d.name.size());
  std::string text = fmt::format("{:<6} {:<{}} {:>10} {:>14} {:>15} {:>12}\n", "split", "domain", width,
                                 "documents", "tokens", "bytes", "bytes/token");
  for (const Split& split : manifest.splits) {
    DomainInfo sum{"(all)", 0, 0, 0};
    const auto row = [&](const DomainInfo& d) {
      text += fmt::format("{:<6} {:<{}} {:>10} {:>14} {:>15} {:>12.3f}\n", split.name, d.name, width,
                          d.documents, d.tokens, d.bytes, ratio(d.bytes, d.tokens));
    };
    for (const DomainInfo& d : split.domains) {
      row(d);
      sum.documents += d.documents;
      sum.tokens += d.tokens;
      sum.bytes += d.bytes;
    }
    row(sum);
  }
  return text;
}

}  // namespace

std::string_view name_of(InputProblem problem) {
  return kNames[static_cast<size_t>(problem)];
}

std::string describe(InputProblem problem, const ProblemPlace& place) {
  std::string text = place.file;
  if (place.line > 0) text += fmt::format(":{}", place.line);
  if (!place.id.empty()) text += fmt::format(" (id {})", place.id);
  text += fmt::format(": {}", kWords[static_cast<size_t>(problem)]);
  if (!place.detail.empty()) text += fmt::format(": {}", place.detail);
  return text;
}

std::string report_json(const Report& report, const Manifest& manifest) {
  ordered_json root;
  root["files"] = report.files;
  root["ignored_files"] = report.ignored_files;
  root["input_bytes"] = report.input_bytes;
  root["documents_read"] = report.documents_read;
  root["tokenizer"] = report.tokenizer;
  for (const Split& split : manifest.splits) {
    for (const DomainInfo& d : split.domains) {
      root["splits"][split.name][d.name] = {{"documents", d.documents},
                                            {"tokens", d.tokens},
                                            {"bytes", d.bytes},
                                            {"bytes_per_token", ratio(d.bytes, d.tokens)}};
    }
  }
  for (size_t i = 0; i < kNumProblems; ++i) {
    ordered_json places = ordered_json::array();
    for (const ProblemPlace& p : report.places[i]) {
      ordered_json place = {{"file", p.file}};
      if (p.line > 0) place["line"] = p.line;
      if (!p.id.empty()) place["id"] = p.id;
      if (!p.detail.empty()) place["detail"] = p.detail;
      places.push_back(std::move(place));
    }
    root["problems"][std::string(kNames[i])] = {{"count", report.counts[i]}, {"first", std::move(places)}};
  }
  root["notes"] = report.notes;
  // File names and ids need not be UTF-8; JSON must be.
  return root.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string report_text(const Report& report, const Manifest& manifest) {
  std::string text =
      fmt::format("read {} documents from {} files ({:.1f} MB); tokenizer: {}\n", report.documents_read,
                  report.files, static_cast<double>(report.input_bytes) / 1e6, report.tokenizer);
  text += domain_table(manifest);
  for (size_t i = 0; i < kNumProblems; ++i) {
    if (report.counts[i] > 0) text += fmt::format("{:<26} {:>10}\n", kWords[i], report.counts[i]);
  }
  for (size_t i = 0; i < kNumProblems; ++i) {
    const InputProblem problem = static_cast<InputProblem>(i);
    if (!is_bad_input(problem)) continue;
    for (const ProblemPlace& place : report.places[i]) text += "  " + describe(problem, place) + "\n";
    const int64_t more = report.counts[i] - static_cast<int64_t>(report.places[i].size());
    if (more > 0) text += fmt::format("  ... and {} more of {}\n", more, kNames[i]);
  }
  for (const std::string& note : report.notes) text += "note: " + note + "\n";
  return text;
}

}  // namespace cadre::data
