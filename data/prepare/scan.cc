#include "data/prepare/scan.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "data/prepare/minhash.h"
#include "data/prepare/parts.h"
#include "data/prepare/progress.h"
#include "data/prepare/source.h"
#include "data/prepare/text_hash.h"
#include "data/prepare/workers.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

using nlohmann::json;

// Lines of the file that start before this position (> 0), for messages of --strict.
int64_t lines_before(const InputFile& file, uint64_t position) {
  int64_t lines = 1;
  uint64_t left = position - 1;  // a newline there starts a line at `position` itself
  const auto source = open_source(file, 0);
  std::vector<char> block(size_t(1) << 16);
  while (left > 0) {
    const size_t n = source->read(std::span(block).first(std::min<uint64_t>(block.size(), left)));
    if (n == 0) break;
    lines += std::ranges::count(std::span(block).first(n), '\n');
    left -= n;
  }
  return lines;
}

class Scanner final : public DocumentSink {
 public:
  Scanner(const Work& work, int64_t unit) : work_(work), unit_(unit), records_(work.scan_part(unit)) {
    if (work.finds_near_duplicates()) signatures_.emplace(work.signature_part(unit));
    if (work.trains_tokenizer()) samples_.emplace(work.sample_part(unit));
    limit_ = sample_candidate_limit(work);
    summary_.lines.resize(work.inputs.units[unit].slices.size());
  }

  void document(const Document& document) override {
    const DocRecord record{hash_text(document.text), static_cast<uint32_t>(document.text.size()),
                           domain_index(document.domain)};
    records_.put(record);
    if (signatures_) signatures_->put(minhash(document.text));
    if (const uint64_t key = sample_key(record.hash); samples_ && key <= limit_) {
      const std::string_view text = document.text.substr(0, kMaxSampleOfDocument);
      samples_->put(SampleHead{static_cast<uint64_t>(summary_.documents), key, text.size()});
      samples_->write(std::as_bytes(std::span(text)));
    }
    ++summary_.documents;
  }

  void problem(InputProblem problem, int slice, int64_t line, std::string_view id,
               std::string detail) override {
    ProblemPlace place{"", line, std::string(id), std::move(detail)};
    if (work_.options.strict && is_bad_input(problem)) stop(problem, slice, place);
    const size_t kind = static_cast<size_t>(problem);
    if (++summary_.counts[kind] <= static_cast<int64_t>(Report::kMaxPlaces)) {
      summary_.problems.push_back({problem, slice, std::move(place)});
    }
  }

  void slice_done(int slice, int64_t lines) override { summary_.lines[slice] = lines; }

  void finish() {
    if (signatures_) signatures_->finish();
    if (samples_) samples_->finish();
    json problems = json::array();
    for (const UnitProblem& p : summary_.problems) {
      problems.push_back({static_cast<int>(p.kind), p.slice, p.place.line, p.place.id, p.place.detail});
    }
    const json tail = {{"documents", summary_.documents},
                       {"domains", summary_.domains},
                       {"lines", summary_.lines},
                       {"counts", summary_.counts},
                       {"problems", std::move(problems)}};
    records_.finish(tail.dump(-1, ' ', false, json::error_handler_t::replace));
  }

 private:
  [[noreturn]] void stop(InputProblem problem, int slice, ProblemPlace place) const {
    const Slice& where = work_.inputs.units[unit_].slices[slice];
    const InputFile& file = work_.inputs.files[where.file];
    place.file = file.path.string();
    if (place.line > 0 && where.begin > 0) place.line += lines_before(file, where.begin);
    fail(ExitCode::kData, "{} (--strict stops at the first bad input)", describe(problem, place));
  }

  uint32_t domain_index(std::string_view name) {
    if (!summary_.domains.empty() && summary_.domains[last_domain_] == name) return last_domain_;
    const auto [it, added] =
        domain_ids_.try_emplace(std::string(name), static_cast<uint32_t>(summary_.domains.size()));
    if (added) summary_.domains.push_back(it->first);
    return last_domain_ = it->second;
  }

  const Work& work_;
  const int64_t unit_;
  PartWriter records_;
  std::optional<PartWriter> signatures_, samples_;
  uint64_t limit_ = 0;
  UnitSummary summary_;
  std::unordered_map<std::string, uint32_t> domain_ids_;
  uint32_t last_domain_ = 0;
};

bool is_scanned(const Work& work, int64_t unit) {
  return is_whole_part(work.scan_part(unit)) &&
         (!work.finds_near_duplicates() || is_whole_part(work.signature_part(unit))) &&
         (!work.trains_tokenizer() || is_whole_part(work.sample_part(unit)));
}

// Parts of an earlier run may hold problems that --strict, given now, does not accept.
void check_strict(const Work& work) {
  if (!work.options.strict) return;
  const Report report = gather_report(work);
  for (size_t kind = 0; kind < kNumProblems; ++kind) {
    const InputProblem problem = static_cast<InputProblem>(kind);
    if (!is_bad_input(problem) || report.places[kind].empty()) continue;
    fail(ExitCode::kData, "{} (--strict stops at bad input)", describe(problem, report.places[kind][0]));
  }
}

}  // namespace

double held_out_key(const DocHash& hash) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word = word << 8 | hash[i];
  return static_cast<double>(word >> 11) * 0x1.0p-53;
}

uint64_t sample_key(const DocHash& hash) {
  uint64_t word = 0;
  for (int i = 8; i < 16; ++i) word = word << 8 | hash[i];
  return base::mix(word);
}

uint64_t sample_candidate_limit(const Work& work) {
  constexpr double kReserve = 4, kCompression = 4;
  double bytes = 1;
  for (const InputFile& file : work.inputs.files) {
    bytes += static_cast<double>(file.size) * (file.compression == Compression::kNone ? 1 : kCompression);
  }
  const double share = kReserve * static_cast<double>(work.options.sample_bytes) / bytes;
  return share >= 1 ? ~uint64_t(0) : static_cast<uint64_t>(share * 0x1.0p64);
}

void scan(const Work& work) {
  Progress progress("scan", work.inputs.bytes / work.comm.size(), "MB", work.comm.rank() == 0);
  run_jobs(work.comm, work.threads, work.num_units(), "scan", [&](int64_t unit) {
    if (is_scanned(work, unit)) {
      progress.add(work.inputs.units[unit].bytes);
      return;
    }
    Scanner scanner(work, unit);
    read_unit(
        work.inputs, work.inputs.units[unit], work.read, [&](uint64_t bytes) { progress.add(bytes); },
        scanner);
    scanner.finish();
  });
  run_on_root(work.comm, "scan: strict", [&] { check_strict(work); });
}

UnitSummary read_summary(const Work& work, int64_t unit) {
  const json tail = json::parse(PartReader(work.scan_part(unit)).tail());
  UnitSummary summary;
  summary.documents = tail.at("documents").get<int64_t>();
  summary.domains = tail.at("domains").get<std::vector<std::string>>();
  summary.lines = tail.at("lines").get<std::vector<int64_t>>();
  summary.counts = tail.at("counts").get<std::array<int64_t, kNumProblems>>();
  for (const json& p : tail.at("problems")) {
    summary.problems.push_back({static_cast<InputProblem>(p[0].get<int>()),
                                p[1].get<int>(),
                                {"", p[2].get<int64_t>(), p[3].get<std::string>(), p[4].get<std::string>()}});
  }
  return summary;
}

Report gather_report(const Work& work) {
  Report report;
  report.files = static_cast<int64_t>(work.inputs.files.size());
  report.ignored_files = work.inputs.ignored;
  report.input_bytes = static_cast<int64_t>(work.inputs.bytes);
  int file = -1;
  int64_t lines = 0;  // of that file in slices before
  for (int64_t unit = 0; unit < work.num_units(); ++unit) {
    const UnitSummary summary = read_summary(work, unit);
    report.documents_read += summary.documents;
    for (size_t i = 0; i < kNumProblems; ++i) report.counts[i] += summary.counts[i];
    size_t next = 0;
    for (size_t s = 0; s < summary.lines.size(); ++s) {
      const int slice_file = work.inputs.units[unit].slices[s].file;
      if (slice_file != file) lines = 0;
      file = slice_file;
      for (; next < summary.problems.size() && summary.problems[next].slice == static_cast<int>(s); ++next) {
        UnitProblem p = summary.problems[next];
        p.place.file = work.inputs.files[file].path.string();
        if (p.place.line > 0) p.place.line += lines;
        auto& places = report.places[static_cast<size_t>(p.kind)];
        if (places.size() < Report::kMaxPlaces) places.push_back(std::move(p.place));
      }
      lines += summary.lines[s];
    }
  }
  return report;
}

}  // namespace cadre::data
