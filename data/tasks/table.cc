// Every task, by name, and how their problems are divided into splits. Add a row here when you add a file.
#include "data/tasks/makers.h"
#include "parallel/base/errors.h"

namespace cadre::data {

const std::vector<base::Entry<TaskMaker>>& task_table() {
  static const std::vector<base::Entry<TaskMaker>> table = {
      {"arithmetic", "whole-number expressions: + and -, then *, then parentheses", make_arithmetic},
      {"counting", "how often a letter is in a text", make_counting},
      {"sorting", "numbers in rising order", make_sorting},
      {"bases", "a number from one base to another", make_bases},
      {"string_edits", "reverse, remove, replace, rotate", make_string_edits},
      {"logic_grids", "who has what, from clues", make_logic_grids},
  };
  return table;
}

std::unique_ptr<Task> make_task(const std::string& name) {
  return base::find_entry(task_table(), "task", name).make();
}

Problem make_problem(const Task& task, TaskSplit split, uint64_t seed, uint64_t index, int level) {
  constexpr uint64_t kHeldOutOneIn = 8, kAttempts = 10000;
  require(level >= 1 && level <= task.levels(), ExitCode::kUsage, "found level {}, this task has 1 to {}",
          level, task.levels());
  for (uint64_t attempt = 0; attempt < kAttempts; ++attempt) {
    Draws draws(base::mix(base::mix(seed, index), base::mix(uint64_t(level), attempt)));
    Problem problem = task.make(draws, level);
    problem.level = level;
    const bool held_out = base::mix(seed, base::hash_name(problem.prompt)) % kHeldOutOneIn == 0;
    if (held_out == (split == TaskSplit::kHeldOut)) return problem;
  }
  fail(ExitCode::kUsage,
       "seed {} leaves one split of this task without problems at level {}; use another seed", seed, level);
}

}  // namespace cadre::data
