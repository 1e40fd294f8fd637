// What documents score, and how scores become a number with its standard error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/evaluation/task.h"

namespace cadre::trainer {

// One document's part in a metric: value, and what it weighs in a perplexity (words, bytes, or 1).
struct Sample {
  double value = 0, weight = 1;
};
struct Estimate {
  double value = 0, error = 0;  // the error is 0 for fewer than two documents
};
// The mean of the values and the standard error s / sqrt(n); or, for perplexities and bits, a function of
// -sum(value) / sum(weight), with the error of a ratio of means carried through it (the harness draws bootstrap
// samples for those).
Estimate estimate(const std::string& metric, const std::vector<Sample>& samples);

// Choice with the highest score, the first of equals.
int64_t best_choice(const std::vector<double>& scores);
// Characters: code points of well-formed UTF-8.
int64_t count_characters(const std::string& text);
// As Python's len(re.split(r"\s+", text)).
int64_t count_words(const std::string& text);
bool exact_match(const MetricConfig& metric, const std::string& answer,
                 const std::vector<std::string>& right);
std::string apply_filters(const FilterChain& chain, const std::string& answer);

}  // namespace cadre::trainer
