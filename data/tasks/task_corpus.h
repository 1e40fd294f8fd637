// A task's problems as a set of prompts, or with their answers as conversations: what `tasks` of a run file names. One
// domain a level.
#pragma once

#include "data/corpus.h"
#include "data/task.h"
#include "data/tokenizer.h"

namespace cadre::data {

struct TaskSetConfig {
  std::string task;
  std::vector<int64_t> levels = {1};
  uint64_t seed = 1;                         // which problems there are, and which of them are held out
  int64_t problems = 20000, held_out = 100;  // of each level; short levels repeat themselves
  std::string tokenizer;                     // "bytes" or the file of one; empty: that of `init`, or bytes
  std::string chat_template = "plain";       // as `cadre prepare --chat-template`
};
TaskSetConfig read_task_set(base::Section section);

// kind: kPrompts, or kInstruction with the answers, which alone are trained.
std::unique_ptr<Corpus> make_task_corpus(const TaskSetConfig& config, TaskSplit split,
                                         const Tokenizer& tokenizer, SetKind kind);

}  // namespace cadre::data
