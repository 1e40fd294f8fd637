// Pass 1: reads every unit once and writes down what the choice of documents needs to know about each.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "data/prepare/report.h"
#include "data/prepare/work.h"

namespace cadre::data {

struct UnitProblem {
  InputProblem kind = InputProblem::kEmpty;
  int slice = 0;
  ProblemPlace place;  // line counts from the slice's first; file is filled in by gather_report
};

// The tail of a scan part.
struct UnitSummary {
  int64_t documents = 0;
  std::vector<std::string> domains;  // in the order of first appearance
  std::vector<int64_t> lines;        // by slice
  std::array<int64_t, kNumProblems> counts = {};
  std::vector<UnitProblem> problems;  // the first Report::kMaxPlaces of each kind
};
UnitSummary read_summary(const Work& work, int64_t unit);

// Collective. With options.strict the first bad input in input order is thrown as Error(kData).
void scan(const Work& work);

// Counts and places of all units; the choices of documents are not in it yet.
Report gather_report(const Work& work);

// Where a text falls by its hash alone. Both are uniform and independent of each other.
double held_out_key(const DocHash& hash);  // in [0, 1)
uint64_t sample_key(const DocHash& hash);

// Candidates for the tokenizer's sample: documents whose key is below this. About four times what the sample
// needs, to have enough left when duplicates are gone. A pure function of inputs and options.
uint64_t sample_candidate_limit(const Work& work);

// A document gives at most this much to the sample, so that no single one rules the vocabulary.
constexpr size_t kMaxSampleOfDocument = size_t(1) << 18;

// Head of an entry of a sample part; `bytes` bytes of text follow.
struct SampleHead {
  uint64_t document = 0;  // index in the unit
  uint64_t key = 0, bytes = 0;
};

}  // namespace cadre::data
