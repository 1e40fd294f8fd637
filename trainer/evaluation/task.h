// An evaluation task as lm-evaluation-harness's YAML files describe it, over local JSON lines. Keys, defaults and
// names of metrics are that program's; what is not known here is refused with its line, since a key that is passed
// over would change the numbers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace cadre::trainer {

enum class OutputType { kMultipleChoice, kLogLikelihood, kRolling, kGenerate };

// What a task asks of a document: a template or the name of a field, a number, or a list.
struct TaskField {
  enum class Kind { kAbsent, kText, kNumber, kList };
  Kind kind = Kind::kAbsent;
  std::string text = {};
  int64_t number = 0;
  std::vector<std::string> list = {};
};

struct MetricConfig {
  std::string name;
  // Of exact_match: what is taken out of both texts before they are compared.
  bool ignore_case = false, ignore_punctuation = false, ignore_numbers = false;
  std::vector<std::string> ignored = {};  // regular expressions
};

struct FilterStep {
  enum class Kind { kRegex, kTakeFirst, kRemoveWhitespace, kLowercase, kUppercase };
  Kind kind;
  std::string pattern = {}, fallback = {};
  int64_t group = 0;  // which of the matches; below 0 from the end
};
struct FilterChain {
  std::string name = "none";
  std::vector<FilterStep> steps = {};
};

struct TaskConfig {
  std::string name, source;
  OutputType output = OutputType::kGenerate;
  std::map<std::string, std::vector<std::filesystem::path>> files;  // by split
  std::string split, fewshot_split;
  TaskField text, target, choices;
  std::string description, target_delimiter = " ", fewshot_delimiter = "\n\n";
  int64_t num_fewshot = 0;
  std::vector<MetricConfig> metrics;
  std::vector<FilterChain> filters;
  std::vector<std::string> until = {"\n\n"};
  int64_t max_tokens = 256;  // of a generated answer
};

// Throws Error(kUsage), naming file, line and key.
TaskConfig read_task(const std::filesystem::path& file);

}  // namespace cadre::trainer
