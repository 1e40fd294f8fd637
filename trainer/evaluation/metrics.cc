#include "trainer/evaluation/metrics.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "data/jinja/library.h"
#include "parallel/base/errors.h"
#include "trainer/evaluation/pattern.h"

namespace cadre::trainer {
namespace {

// Means over documents of a (value) and b (weight), and the error of mean(a) / mean(b) by its first-order expansion.
struct Ratio {
  double value, error;
};
Ratio ratio_of(const std::vector<Sample>& samples) {
  const auto n = static_cast<double>(samples.size());
  double a = 0, b = 0;
  for (const Sample& s : samples) {
    a += s.value;
    b += s.weight;
  }
  require(b > 0, ExitCode::kData, "the documents hold nothing to predict");
  const double ratio = a / b;
  double squares = 0;
  for (const Sample& s : samples) {
    const double rest = s.value - ratio * s.weight;
    squares += rest * rest;
  }
  return {ratio, n > 1 ? std::sqrt(squares / (n - 1) / n) / (b / n) : 0};
}

std::string strip(const std::string& text) {
  return data::jinja::strip(data::jinja::Text(text), nullptr, true, true).bytes;
}

void change_case(std::string& text, bool up) {
  for (char& c : text) {
    const bool letter = up ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z';
    if (letter) c = static_cast<char>(c ^ 0x20);
  }
}

bool is_punctuation(char c) {
  const auto u = static_cast<unsigned char>(c);
  return u < 0x80 && std::ispunct(u) != 0;
}

std::string clean(const MetricConfig& metric, std::string text) {
  for (const std::string& pattern : metric.ignored) text = Pattern(pattern).remove_from(text);
  if (metric.ignore_case) change_case(text, false);
  if (metric.ignore_punctuation) std::erase_if(text, is_punctuation);
  if (metric.ignore_numbers) std::erase_if(text, [](char c) { return c >= '0' && c <= '9'; });
  return text;
}

std::string take_match(const FilterStep& step, const std::string& answer) {
  const std::vector<std::string> found = Pattern(step.pattern).find_all(answer);
  const auto count = static_cast<int64_t>(found.size());
  if (count == 0) return step.fallback;
  const int64_t at = step.group < 0 ? step.group + count : step.group;
  require(at >= 0 && at < count, ExitCode::kData, "group_select is {}, but the pattern '{}' matches {} times",
          step.group, step.pattern, count);
  return strip(found[static_cast<size_t>(at)]);
}

}  // namespace

Estimate estimate(const std::string& metric, const std::vector<Sample>& samples) {
  const Ratio ratio = ratio_of(samples);
  if (metric == "bits_per_byte") return {-ratio.value / std::numbers::ln2, ratio.error / std::numbers::ln2};
  if (metric.ends_with("perplexity")) {
    const double perplexity = std::exp(-ratio.value);
    return {perplexity, perplexity * ratio.error};
  }
  return {ratio.value, ratio.error};
}

int64_t best_choice(const std::vector<double>& scores) {
  return std::ranges::max_element(scores) - scores.begin();
}

int64_t count_characters(const std::string& text) {
  return static_cast<int64_t>(data::jinja::character_starts(text).size()) - 1;
}

int64_t count_words(const std::string& text) {
  return 1 + static_cast<int64_t>(Pattern("\\s+").find_all(text).size());
}

bool exact_match(const MetricConfig& metric, const std::string& answer,
                 const std::vector<std::string>& right) {
  const std::string cleaned = clean(metric, answer);
  return std::ranges::any_of(right, [&](const std::string& text) { return clean(metric, text) == cleaned; });
}

std::string apply_filters(const FilterChain& chain, const std::string& answer) {
  std::string text = answer;
  for (const FilterStep& step : chain.steps) {
    switch (step.kind) {
      case FilterStep::Kind::kRegex:
        text = take_match(step, text);
        break;
      case FilterStep::Kind::kTakeFirst:  // there is only one answer
        break;
      case FilterStep::Kind::kRemoveWhitespace:
        text = strip(text);
        break;
      case FilterStep::Kind::kLowercase:
      case FilterStep::Kind::kUppercase:
        change_case(text, step.kind == FilterStep::Kind::kUppercase);
        break;
    }
  }
  return text;
}

}  // namespace cadre::trainer
