// The YAML of a task: like base::Section it wants every key to be known, but its values may be of several kinds.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>
#include <vector>

#include "trainer/evaluation/task.h"

namespace cadre::trainer {

class TaskFields {
 public:
  // A map, at `path` of the file (empty for the top).
  TaskFields(YAML::Node node, std::string source, std::string path);

  YAML::Node get(const std::string& key);  // null when missing
  std::string text(const std::string& key, const std::string& fallback);
  std::string need_text(const std::string& key);
  int64_t number(const std::string& key, int64_t fallback, int64_t least, int64_t most);
  bool flag(const std::string& key, bool fallback);
  // One text or a list of them.
  std::vector<std::string> texts(const std::string& key, const std::vector<std::string>& fallback);
  std::vector<TaskFields> maps(const std::string& key);
  TaskField field(const std::string& key);
  void pass_over(const std::vector<std::string>& keys);  // that change no number
  void finish() const;                                   // every key was asked for
  [[noreturn]] void refuse(const std::string& key, const std::string& message) const;

 private:
  std::string scalar(const std::string& key, const YAML::Node& node) const;

  YAML::Node node_;
  std::string source_, path_;
  std::vector<std::string> known_;
};

}  // namespace cadre::trainer
