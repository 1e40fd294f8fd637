// What prepare found and did, for people and for report.json.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/manifest.h"

namespace cadre::data {

// Why something of the input did not become a document as it is. Order and names stand in work files and
// report.json.
enum class InputProblem {
  kUnreadableFile,  // cannot be opened or read; its documents are lost
  kDamagedArchive,  // .gz or .zst cut off or corrupt; the documents before the damage count
  kBrokenJson,      // the line is dropped
  kNoText,          // no text field, or it is not a string; the line is dropped
  kInvalidUtf8,     // reported, and the document stays: tokenizers keep every byte
  kEmpty,           // nothing but blanks; dropped, as are all below
  kTooShort,
  kTooLong,
  kExactDuplicate,
  kNearDuplicate,
};
constexpr size_t kNumProblems = 10;
std::string_view name_of(InputProblem problem);
// Bad input, which --strict does not accept; the others are what the options asked for.
constexpr bool is_bad_input(InputProblem problem) {
  return problem <= InputProblem::kEmpty;
}

struct ProblemPlace {
  std::string file;
  int64_t line = 0;    // 0: the whole file
  std::string id;      // of the document, where it has one
  std::string detail;  // what was found
};
std::string describe(InputProblem problem, const ProblemPlace& place);

struct Report {
  static constexpr size_t kMaxPlaces = 20;  // of each kind that are kept

  int64_t files = 0, ignored_files = 0, input_bytes = 0;
  int64_t documents_read = 0;
  std::array<int64_t, kNumProblems> counts = {};
  std::array<std::vector<ProblemPlace>, kNumProblems> places;
  std::string tokenizer;           // kind and size, in words
  std::vector<std::string> notes;  // e.g. domains without held-out documents
};

// The same bytes for the same inputs and options; no times.
std::string report_json(const Report& report, const Manifest& manifest);
// Some lines for the terminal: a table of domains, what was dropped, the first places of bad input.
std::string report_text(const Report& report, const Manifest& manifest);

}  // namespace cadre::data
