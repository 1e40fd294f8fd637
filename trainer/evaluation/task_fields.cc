#include "trainer/evaluation/task_fields.h"

#include <algorithm>
#include <utility>

#include "parallel/base/config.h"
#include "parallel/base/errors.h"

namespace cadre::trainer {

TaskFields::TaskFields(YAML::Node node, std::string source, std::string path)
    : node_(std::move(node)), source_(std::move(source)), path_(std::move(path)) {
  require(node_.IsMap(), ExitCode::kUsage, "{}, line {}: {} is no map of keys", source_,
          node_.Mark().line + 1, path_.empty() ? "the file" : path_);
}

void TaskFields::refuse(const std::string& key, const std::string& message) const {
  const YAML::Node found = node_[key];
  fail(ExitCode::kUsage, "{}, line {}: {}{}{}: {}", source_,
       (found.IsDefined() ? found.Mark() : node_.Mark()).line + 1, path_, path_.empty() ? "" : ".", key,
       message);
}

YAML::Node TaskFields::get(const std::string& key) {
  known_.push_back(key);
  const YAML::Node found =
      std::as_const(node_)[key];  // else a missing key would be added, under somebody's loop
  if (!found.IsDefined() || found.IsNull()) return YAML::Node();
  if (found.Tag() == "!function") refuse(key, "functions in Python are not supported; write a template");
  return found;
}

std::string TaskFields::scalar(const std::string& key, const YAML::Node& node) const {
  if (!node.IsScalar()) refuse(key, "found a list or a map, expected a text");
  return node.Scalar();
}

std::string TaskFields::text(const std::string& key, const std::string& fallback) {
  const YAML::Node found = get(key);
  return found.IsNull() ? fallback : scalar(key, found);
}

std::string TaskFields::need_text(const std::string& key) {
  const YAML::Node found = get(key);
  if (found.IsNull()) refuse(key, "is missing");
  return scalar(key, found);
}

int64_t TaskFields::number(const std::string& key, int64_t fallback, int64_t least, int64_t most) {
  const YAML::Node found = get(key);
  if (found.IsNull()) return fallback;
  int64_t number = 0;
  if (!YAML::convert<int64_t>::decode(found, number) || number < least || number > most)
    refuse(key, fmt::format("found '{}', expected a whole number from {} to {}",
                            found.IsScalar() ? found.Scalar() : "a list or a map", least, most));
  return number;
}

bool TaskFields::flag(const std::string& key, bool fallback) {
  const YAML::Node found = get(key);
  bool value = fallback;
  if (!found.IsNull() && !YAML::convert<bool>::decode(found, value)) refuse(key, "expected true or false");
  return value;
}

std::vector<std::string> TaskFields::texts(const std::string& key, const std::vector<std::string>& fallback) {
  const YAML::Node found = get(key);
  if (found.IsNull()) return fallback;
  if (!found.IsSequence()) return {scalar(key, found)};
  std::vector<std::string> all;
  for (const YAML::Node& item : found) all.push_back(scalar(key, item));
  return all;
}

std::vector<TaskFields> TaskFields::maps(const std::string& key) {
  const YAML::Node found = get(key);
  std::vector<TaskFields> all;
  if (found.IsNull()) return all;
  if (!found.IsSequence()) refuse(key, "expected a list");
  for (const YAML::Node& item : found)
    all.emplace_back(item, source_, path_.empty() ? key : path_ + "." + key);
  return all;
}

TaskField TaskFields::field(const std::string& key) {
  const YAML::Node found = get(key);
  TaskField field;
  if (found.IsNull()) return field;
  if (found.IsSequence()) {
    field.kind = TaskField::Kind::kList;
    for (const YAML::Node& item : found) field.list.push_back(scalar(key, item));
    return field;
  }
  field.text = scalar(key, found);
  // A number in quotes is a text.
  const bool number = found.Tag() != "!" && YAML::convert<int64_t>::decode(found, field.number);
  field.kind = number ? TaskField::Kind::kNumber : TaskField::Kind::kText;
  return field;
}

void TaskFields::pass_over(const std::vector<std::string>& keys) {
  known_.insert(known_.end(), keys.begin(), keys.end());
}

void TaskFields::finish() const {
  for (const auto& entry : node_) {
    const std::string key = entry.first.Scalar();
    if (std::ranges::find(known_, key) != known_.end()) continue;
    const std::string near = base::nearest(key, known_);
    fail(ExitCode::kUsage, "{}, line {}: {}{}{} is not supported{}", source_, entry.first.Mark().line + 1,
         path_, path_.empty() ? "" : ".", key, near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
  }
}

}  // namespace cadre::trainer
