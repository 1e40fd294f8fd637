// `cadre eval --tasks`: a checkpoint on tasks in the files that lm-evaluation-harness's users know.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/comm/mesh.h"

namespace cadre::launch {

struct TaskArguments {
  std::vector<std::string> files;
  std::string output;
  int64_t limit = 0, num_fewshot = -1, window_context = 1;
  bool no_bos = false;
};
void add_task_options(CLI::App& verb, TaskArguments& arguments);
// Collective. Prints a table, or one JSON object; returns the exit code.
int evaluate_tasks(const TaskArguments& arguments, const std::string& path, bool json, comm::World& world);

}  // namespace cadre::launch
