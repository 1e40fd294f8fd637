// Evaluates a model on a task.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/evaluation/metrics.h"
#include "trainer/evaluation/scorer.h"
#include "trainer/evaluation/task.h"

namespace cadre::trainer {

struct TaskOptions {
  int64_t limit = 0;           // documents of a task; 0: all
  int64_t num_fewshot = -1;    // below 0: the task's own
  int64_t window_context = 1;  // least tokens that a window of rolling perplexity sees before it predicts
};

struct TaskMetric {
  std::string metric, filter;
  Estimate estimate;
};
struct TaskResult {
  std::string task;
  int64_t documents = 0, num_fewshot = 0;
  std::vector<TaskMetric> metrics;
};

// Collective over the scorer's ranks; the same result on all, whatever their number.
TaskResult run_task(const TaskConfig& task, Scorer& scorer, const TaskOptions& options);

// The harness's layout: results[task]["acc,none"], ["acc_stderr,none"], n-shot, n-samples.
nlohmann::ordered_json results_json(const std::vector<TaskResult>& results);
std::string results_table(const std::vector<TaskResult>& results);

}  // namespace cadre::trainer
