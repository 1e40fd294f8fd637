// From a task's documents to what the model is asked: contexts with their examples, choices, targets. Texts are put
// together as lm-evaluation-harness does.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/jinja/template.h"
#include "trainer/evaluation/task.h"

namespace cadre::trainer {

// The documents of a split in the order of its files; at most `limit` (0: all). Throws Error(kData) with file and line.
std::vector<data::jinja::Map> read_documents(const TaskConfig& task, const std::string& split, int64_t limit);

struct TaskTarget {
  int64_t choice = -1;             // of multiple_choice
  std::vector<std::string> texts;  // any of them is right; of the other types
};

class Prompts {
 public:
  explicit Prompts(const TaskConfig& task);

  std::string text(const data::jinja::Map& document) const;
  std::vector<std::string> choices(const data::jinja::Map& document) const;
  TaskTarget target(const data::jinja::Map& document) const;
  // Description, examples, then the document's own text. Where examples come from the
  // same split, one that equals the document is left out for the next one.
  std::string context(const data::jinja::Map& document, const std::vector<data::jinja::Map>& examples) const;

 private:
  struct Field {
    TaskField raw;
    std::optional<data::jinja::Template> made;  // of a text
  };
  Field make(const TaskField& raw, const char* key) const;
  data::jinja::Value value(const Field& field, const data::jinja::Map& document) const;
  std::string answer(const data::jinja::Map& document) const;  // as an example shows it

  const TaskConfig& task_;
  Field text_, target_, choices_, description_;
};

}  // namespace cadre::trainer
