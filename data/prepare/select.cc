#include "data/prepare/select.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "data/prepare/near_duplicates.h"
#include "data/prepare/scan.h"
#include "data/prepare/workers.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

using nlohmann::json;

struct HashedDocument {
  std::array<uint64_t, 2> hash = {};
  uint64_t document = 0;
  auto operator<=>(const HashedDocument&) const = default;
};

// Of equal texts all but the first in input order. Documents are taken in rounds by their hash, so that the
// table fits.
void mark_exact_duplicates(const Work& work, uint64_t memory_bytes, std::vector<Choice>& choices) {
  const uint64_t rounds = choices.size() * sizeof(HashedDocument) * 2 / memory_bytes + 1;
  for (uint64_t round = 0; round < rounds; ++round) {
    std::vector<HashedDocument> table;
    uint64_t document = 0;
    for (int64_t unit = 0; unit < work.num_units(); ++unit) {
      PartStream<DocRecord> records(work.scan_part(unit));
      for (DocRecord record; records.next(record); ++document) {
        HashedDocument entry;
        std::memcpy(entry.hash.data(), record.hash.data(), sizeof entry.hash);
        entry.document = document;
        if (base::mix(entry.hash[1]) % rounds == round) table.push_back(entry);
        const bool held_out = held_out_key(record.hash) < work.options.valid_fraction;
        if (round == 0) choices[document] = held_out ? Choice::kValid : Choice::kTrain;
      }
    }
    std::ranges::sort(table);
    for (size_t i = 1; i < table.size(); ++i) {
      if (table[i].hash == table[i - 1].hash) choices[table[i].document] = Choice::kExactDuplicate;
    }
  }
}

// Names of the domains that keep a document, sorted.
std::set<std::string> kept_domains(const Work& work, const std::vector<Choice>& choices) {
  std::set<std::string> names;
  size_t document = 0;
  for (int64_t unit = 0; unit < work.num_units(); ++unit) {
    const std::vector<std::string> own = read_summary(work, unit).domains;
    std::vector<bool> kept(own.size());
    PartStream<DocRecord> records(work.scan_part(unit));
    for (DocRecord record; records.next(record); ++document) {
      if (is_kept(choices[document])) kept[record.domain] = true;
    }
    for (size_t i = 0; i < own.size(); ++i) {
      if (kept[i]) names.insert(own[i]);
    }
  }
  return names;
}

void check_something_left(const Report& report, const std::array<int64_t, 4>& counts) {
  const int64_t train = counts[0], valid = counts[1];
  if (train > 0) return;
  std::string found;
  for (size_t i = 0; i < kNumProblems; ++i) {
    if (report.counts[i] > 0)
      found += fmt::format(", {} {}", report.counts[i], name_of(static_cast<InputProblem>(i)));
  }
  for (size_t i = 0; i < kNumProblems; ++i) {
    if (!report.places[i].empty()) {
      found += "; first: " + describe(static_cast<InputProblem>(i), report.places[i][0]);
      break;
    }
  }
  require(valid == 0, ExitCode::kData,
          "no document is left for training: all {} are held out{}. Lower --valid-fraction or give more text",
          valid, found);
  fail(ExitCode::kData, "no document found in {} files{}. Expected texts of at least --min-chars characters",
       report.files, found);
}

void write_choices(const Work& work, const std::vector<int64_t>& first, const std::vector<Choice>& choices) {
  std::array<int64_t, 4> counts = {};
  for (const Choice choice : choices) ++counts[static_cast<size_t>(choice)];
  check_something_left(gather_report(work), counts);
  const std::set<std::string> domains = kept_domains(work, choices);
  constexpr size_t kMaxDomains = 65536;
  require(domains.size() <= kMaxDomains, ExitCode::kData,
          "{} domains, at most {} are possible. Name a coarser field with --domain-field", domains.size(),
          kMaxDomains);
  PartWriter part(work.choice_part());
  part.write(std::as_bytes(std::span(choices)));
  part.finish(json({{"domains", domains}, {"first", first}, {"counts", counts}}).dump());
}

}  // namespace

void select_documents(const Work& work) {
  run_on_root(work.comm, "select", [&] {
    if (is_whole_part(work.choice_part())) return;
    std::vector<int64_t> first = {0};
    for (int64_t unit = 0; unit < work.num_units(); ++unit) {
      first.push_back(first.back() + read_summary(work, unit).documents);
    }
    // Two bytes a document here, the rest for the tables.
    const uint64_t memory = static_cast<uint64_t>(work.options.memory_bytes),
                   documents = static_cast<uint64_t>(first.back());
    require(documents * 4 <= memory, ExitCode::kData, "{} documents need --memory of at least {}", documents,
            documents * 4);
    std::vector<Choice> choices(documents);
    mark_exact_duplicates(work, memory / 2, choices);
    if (work.finds_near_duplicates()) mark_near_duplicates(work, first, memory / 2, choices);
    write_choices(work, first, choices);
  });
}

Choices::Choices(const Work& work) : part_(work.choice_part()) {
  const json tail = json::parse(part_.tail());
  domains_ = tail.at("domains").get<std::vector<std::string>>();
  first_ = tail.at("first").get<std::vector<int64_t>>();
  counts_ = tail.at("counts").get<std::array<int64_t, 4>>();
}

std::vector<Choice> Choices::of_unit(int64_t unit) const {
  std::vector<Choice> choices(static_cast<size_t>(documents(unit)));
  part_.read(static_cast<uint64_t>(first_[unit]), std::as_writable_bytes(std::span(choices)));
  return choices;
}

std::vector<int> Choices::domain_ids(const Work& work, int64_t unit) const {
  std::vector<int> ids;
  for (const std::string& name : read_summary(work, unit).domains) {
    const auto it = std::ranges::lower_bound(domains_, name);
    ids.push_back(it != domains_.end() && *it == name ? static_cast<int>(it - domains_.begin()) : -1);
  }
  return ids;
}

}  // namespace cadre::data
