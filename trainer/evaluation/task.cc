#include "trainer/evaluation/task.h"

#include <algorithm>

#include "parallel/base/errors.h"
#include "parallel/base/files.h"
#include "trainer/evaluation/task_fields.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxTokens = 1 << 20;

struct NamedOutput {
  const char* name;
  OutputType type;
  std::vector<std::string> metrics;  // those that the type has, all of them by default
};
const std::vector<NamedOutput>& outputs() {
  static const std::vector<NamedOutput> all = {
      {"multiple_choice", OutputType::kMultipleChoice, {"acc", "acc_norm", "acc_bytes"}},
      {"loglikelihood", OutputType::kLogLikelihood, {"perplexity", "acc"}},
      {"loglikelihood_rolling",
       OutputType::kRolling,
       {"word_perplexity", "byte_perplexity", "bits_per_byte"}},
      {"generate_until", OutputType::kGenerate, {"exact_match"}}};
  return all;
}

std::string joined(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : ", ") + word;
  return all;
}

const NamedOutput& read_output(TaskFields& fields) {
  const std::string name = fields.text("output_type", "generate_until");
  std::vector<std::string> names;
  for (const NamedOutput& output : outputs()) {
    if (name == output.name) return output;
    names.push_back(output.name);
  }
  fields.refuse("output_type", fmt::format("found '{}', expected one of {}", name, joined(names)));
}

// Beside the task file, else where the program was started.
fs::path resolve(const fs::path& folder, const std::string& name) {
  const fs::path beside = folder / name;
  std::error_code refused;  // a name that the file system will not hear is not there
  return fs::exists(beside, refused) ? beside : fs::path(name);
}

void read_files(TaskFields& fields, TaskConfig& task) {
  const std::string kind = fields.need_text("dataset_path");
  if (kind != "json")
    fields.refuse("dataset_path", fmt::format("found '{}', expected json: only local files are read", kind));
  const YAML::Node kwargs = fields.get("dataset_kwargs");
  if (!kwargs.IsMap()) fields.refuse("dataset_kwargs", "expected a map with data_files");
  TaskFields inner(kwargs, task.source, "dataset_kwargs");
  const YAML::Node files = inner.get("data_files");
  const fs::path folder = fs::path(task.source).parent_path();
  const auto add = [&](TaskFields& from, const std::string& key, const std::string& split) {
    for (const std::string& name : from.texts(key, {})) task.files[split].push_back(resolve(folder, name));
  };
  if (files.IsMap()) {
    TaskFields splits(files, task.source, "dataset_kwargs.data_files");
    for (const auto& entry : files) {
      if (!entry.first.IsScalar()) inner.refuse("data_files", "expected a name before each file");
      add(splits, entry.first.Scalar(), entry.first.Scalar());
    }
  } else {
    add(inner, "data_files", "train");  // as the datasets library calls a file without a split
  }
  inner.finish();
  if (task.files.empty()) inner.refuse("data_files", "names no file");
}

void read_splits(TaskFields& fields, TaskConfig& task) {
  const std::string test = fields.text("test_split", ""), validation = fields.text("validation_split", "");
  const std::string training = fields.text("training_split", "");
  task.split = !test.empty() ? test : validation;
  if (task.split.empty()) fields.refuse("test_split", "neither test_split nor validation_split is given");
  task.fewshot_split = fields.text("fewshot_split", !training.empty()     ? training
                                                    : !validation.empty() ? validation
                                                                          : test);
  for (const std::string& split : {task.split, task.fewshot_split}) {
    if (!task.files.contains(split))
      fields.refuse("dataset_kwargs", fmt::format("data_files has no split '{}'", split));
  }
}

void read_metrics(TaskFields& fields, const NamedOutput& output, TaskConfig& task) {
  for (TaskFields& entry : fields.maps("metric_list")) {
    MetricConfig metric{.name = entry.need_text("metric")};
    if (std::ranges::find(output.metrics, metric.name) == output.metrics.end())
      entry.refuse("metric", fmt::format("found '{}', expected one of {} for {}", metric.name,
                                         joined(output.metrics), output.name));
    // How documents are put together belongs to the metric; the file may say so.
    const std::string natural = metric.name == "perplexity"           ? "perplexity"
                                : metric.name == "bits_per_byte"      ? "bits_per_byte"
                                : metric.name.ends_with("perplexity") ? "weighted_perplexity"
                                                                      : "mean";
    if (entry.text("aggregation", natural) != natural) entry.refuse("aggregation", "expected " + natural);
    entry.pass_over({"higher_is_better"});
    if (metric.name == "exact_match") {
      metric.ignore_case = entry.flag("ignore_case", false);
      metric.ignore_punctuation = entry.flag("ignore_punctuation", false);
      metric.ignore_numbers = entry.flag("ignore_numbers", false);
      metric.ignored = entry.texts("regexes_to_ignore", {});
    }
    entry.finish();
    task.metrics.push_back(std::move(metric));
  }
  if (task.metrics.empty())
    for (const std::string& name : output.metrics) task.metrics.push_back({.name = name});
}

FilterStep read_step(TaskFields& fields) {
  const std::string name = fields.need_text("function");
  FilterStep step{FilterStep::Kind::kTakeFirst};
  if (name == "regex") {
    step = {.kind = FilterStep::Kind::kRegex,
            .pattern = fields.text("regex_pattern", R"(#### (\-?[0-9\.\,]+))"),
            .fallback = fields.text("fallback", "[invalid]"),
            .group = fields.number("group_select", 0, -1000, 1000)};
  } else if (name == "remove_whitespace") {
    step.kind = FilterStep::Kind::kRemoveWhitespace;
  } else if (name == "lowercase") {
    step.kind = FilterStep::Kind::kLowercase;
  } else if (name == "uppercase") {
    step.kind = FilterStep::Kind::kUppercase;
  } else if (name != "take_first") {
    fields.refuse(
        "function",
        fmt::format("found '{}', expected one of regex, take_first, remove_whitespace, lowercase, uppercase",
                    name));
  }
  fields.finish();
  return step;
}

void read_filters(TaskFields& fields, TaskConfig& task) {
  for (TaskFields& entry : fields.maps("filter_list")) {
    FilterChain chain{.name = entry.need_text("name")};
    for (TaskFields& step : entry.maps("filter")) chain.steps.push_back(read_step(step));
    entry.finish();
    task.filters.push_back(std::move(chain));
  }
  if (task.filters.empty()) task.filters.emplace_back();
  if (task.output != OutputType::kGenerate && (task.filters.size() > 1 || !task.filters[0].steps.empty()))
    fields.refuse("filter_list", "filters are for generate_until");
}

void read_generation(TaskFields& fields, TaskConfig& task) {
  task.until = {task.fewshot_delimiter};
  const YAML::Node kwargs = fields.get("generation_kwargs");
  if (kwargs.IsNull()) return;
  TaskFields inner(kwargs, task.source, "generation_kwargs");
  task.until = inner.texts("until", task.until);
  if (std::ranges::find(task.until, "") != task.until.end())
    inner.refuse("until", "an empty text would end every answer");
  task.max_tokens = inner.number("max_gen_toks", task.max_tokens, 1, kMaxTokens);
  if (inner.flag("do_sample", false))
    inner.refuse("do_sample", "answers are the likeliest tokens; expected false");
  const std::string temperature = inner.text("temperature", "0");
  if (temperature != "0" && temperature != "0.0")
    inner.refuse("temperature", "answers are the likeliest tokens; expected 0");
  inner.finish();
}

YAML::Node load(const fs::path& file) {
  const std::string text = base::read_file(file, ExitCode::kUsage, uint64_t(1) << 24);
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    fail(ExitCode::kUsage, "{}: no YAML: {}", file.string(), error.what());
  }
}

}  // namespace

TaskConfig read_task(const fs::path& file) {
  TaskConfig task;
  task.source = file.string();
  TaskFields fields(load(file), task.source, "");
  task.name = fields.need_text("task");
  const NamedOutput& output = read_output(fields);
  task.output = output.type;
  read_files(fields, task);
  read_splits(fields, task);
  task.text = fields.field("doc_to_text");
  task.target = fields.field("doc_to_target");
  task.choices = fields.field("doc_to_choice");
  if (task.target.kind == TaskField::Kind::kAbsent) fields.refuse("doc_to_target", "is missing");
  const bool choices = task.output == OutputType::kMultipleChoice;
  if (choices != (task.choices.kind != TaskField::Kind::kAbsent))
    fields.refuse("doc_to_choice", choices ? "is missing" : "is only for multiple_choice");
  task.description = fields.text("description", "");
  task.target_delimiter = fields.text("target_delimiter", task.target_delimiter);
  task.fewshot_delimiter = fields.text("fewshot_delimiter", task.fewshot_delimiter);
  task.num_fewshot = fields.number("num_fewshot", 0, 0, 1000);
  const YAML::Node sampler = fields.get("fewshot_config");
  if (!sampler.IsNull()) {
    TaskFields inner(sampler, task.source, "fewshot_config");
    if (inner.text("sampler", "first_n") != "first_n")
      inner.refuse("sampler", "expected first_n: examples are the first documents");
    inner.finish();
  }
  read_metrics(fields, output, task);
  read_filters(fields, task);
  read_generation(fields, task);
  if (fields.number("repeats", 1, 1, 1) != 1) fields.refuse("repeats", "expected 1");
  fields.pass_over({"metadata", "tag", "task_alias", "should_decontaminate", "doc_to_decontamination_query",
                    "dataset_name"});
  fields.finish();
  return task;
}

}  // namespace cadre::trainer
