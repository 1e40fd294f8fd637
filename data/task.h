// Tasks make problems whose answers can be checked, at rising levels of difficulty. One file a task in tasks/, one row in
// tasks/table.cc. A problem is a pure function of (task, split, seed, index, level).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/base/table.h"

namespace cadre::data {

struct Problem {
  std::string prompt;
  std::string answer;  // short, and the only right one: fit for exact_match
  int level = 0;
};

// The random numbers of one problem, drawn in order.
class Draws {
 public:
  explicit Draws(uint64_t key) : rng_(key) {}
  int64_t below(int64_t n) { return int64_t(rng_.bits(next_++) % uint64_t(n)); }
  int64_t between(int64_t first, int64_t last) { return first + below(last - first + 1); }
  std::vector<int> permutation(int n) {
    std::vector<int> p;
    for (int i = 0; i < n; ++i) {
      p.push_back(i);
      std::swap(p[size_t(i)], p[size_t(below(i + 1))]);
    }
    return p;
  }
  std::string letters(int64_t count, int64_t alphabet) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += char('a' + below(alphabet));
    return text;
  }

 private:
  base::Philox rng_;
  uint64_t next_ = 0;
};

class Task {
 public:
  virtual ~Task() = default;
  virtual int levels() const = 0;                           // 1 is the easiest
  virtual Problem make(Draws& draws, int level) const = 0;  // leaves Problem::level to the caller
};

using TaskMaker = std::unique_ptr<Task> (*)();
const std::vector<base::Entry<TaskMaker>>& task_table();
std::unique_ptr<Task> make_task(const std::string& name);  // throws Error(kUsage) listing the table

// The seed decides by the prompt's text which eighth of all problems is held out, so that no problem of one split is ever
// in the other, whatever indices are asked for.
enum class TaskSplit { kTrain, kHeldOut };
Problem make_problem(const Task& task, TaskSplit split, uint64_t seed, uint64_t index, int level);

}  // namespace cadre::data
