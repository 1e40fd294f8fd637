// A folder with a small task, for tests of evaluation.
#pragma once

#include <fstream>
#include <string>

#include "tests/trainer/run_fixture.h"
#include "trainer/evaluation/task.h"

namespace cadre::trainer::testing {

struct TaskFolder {
  TempFolder folder;
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder.path() / name, std::ios::binary) << text;
    return folder.path() / name;
  }
  TaskConfig task(const std::string& yaml) const { return read_task(write("task.yaml", yaml)); }
};

inline constexpr const char* kChoice = R"(task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl, train: train.jsonl}}
test_split: test
training_split: train
output_type: multiple_choice
doc_to_text: "{{q}} ="
doc_to_choice: ["1", "22", "{{x}}"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}, {metric: acc_norm}, {metric: acc_bytes}]
metadata: {version: 1.0}
)";

inline TaskFolder choice_folder() {
  TaskFolder f;
  f.write("test.jsonl",
          "{\"q\": \"1+0\", \"label\": 0}\n{\"q\": \"9 \", \"label\": 1}\n\n{\"q\": \"a\", \"label\": 2}\n");
  f.write("train.jsonl", "{\"q\": \"0+1\", \"label\": 0}\n{\"q\": \"20+2\", \"label\": 1}\n");
  return f;
}

}  // namespace cadre::trainer::testing
