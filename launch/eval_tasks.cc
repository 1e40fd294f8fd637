#include "launch/eval_tasks.h"

#include <fmt/format.h>

#include <set>

#include "launch/model_arguments.h"
#include "launch/option_checks.h"
#include "parallel/base/files.h"
#include "trainer/evaluation/run_task.h"

namespace cadre::launch {
namespace {

constexpr int64_t kMicroBatch = 8;  // rows a forward pass; only speed and memory depend on it

std::vector<trainer::TaskConfig> read_tasks(const std::vector<std::string>& files) {
  std::vector<trainer::TaskConfig> tasks;
  std::set<std::string> names;
  for (const std::string& file : files) {
    tasks.push_back(trainer::read_task(file));
    require(names.insert(tasks.back().name).second, ExitCode::kUsage, "two tasks are called '{}'",
            tasks.back().name);
  }
  return tasks;
}

}  // namespace

void add_task_options(CLI::App& verb, TaskArguments& arguments) {
  CLI::Option* const tasks =
      verb.add_option("--tasks", arguments.files,
                      "Task files in lm-evaluation-harness's YAML (docs/evaluation.md)")
          ->check(CLI::ExistingFile);
  verb.add_option("--output", arguments.output, "With --tasks: also write the results to this JSON file")
      ->needs(tasks);
  verb.add_option("--limit", arguments.limit, "With --tasks: only the first documents of each")
      ->check(at_least(1))
      ->needs(tasks);
  verb.add_option("--num-fewshot", arguments.num_fewshot,
                  "With --tasks: examples before each document, in place of the task's own")
      ->check(CLI::Range(int64_t(0), int64_t(1000)))
      ->needs(tasks);
  verb.add_option("--window-context", arguments.window_context,
                  "With --tasks: least tokens that a window of rolling perplexity sees before it predicts")
      ->capture_default_str()
      ->check(at_least(1))
      ->needs(tasks);
  verb.add_flag("--no-bos", arguments.no_bos, "With --tasks: no start of a document before the contexts")
      ->needs(tasks);
}

int evaluate_tasks(const TaskArguments& arguments, const std::string& path, bool json, comm::World& world) {
  const std::vector<trainer::TaskConfig> tasks = read_tasks(arguments.files);
  LoadedModel loaded = load_model(path, world, kMicroBatch);
  require(arguments.window_context <= loaded.config.data.seq_len, ExitCode::kUsage,
          "--window-context is {}, expected at most the model's {} tokens", arguments.window_context,
          loaded.config.data.seq_len);
  const auto tokenizer = load_saved_tokenizer(loaded.folder);
  trainer::Scorer scorer(*loaded.model, *tokenizer, kMicroBatch, !arguments.no_bos);
  std::vector<trainer::TaskResult> results;
  for (const trainer::TaskConfig& task : tasks)
    results.push_back(trainer::run_task(task, scorer,
                                        {.limit = arguments.limit,
                                         .num_fewshot = arguments.num_fewshot,
                                         .window_context = arguments.window_context}));
  if (world.rank() != 0) return int(ExitCode::kOk);
  nlohmann::ordered_json root = trainer::results_json(results);
  root["checkpoint"] = loaded.folder.string();
  root["step"] = loaded.step;
  if (!arguments.output.empty())
    base::write_file_atomic(arguments.output, root.dump(2) + "\n", ExitCode::kUsage);
  fmt::print("{}{}", json ? root.dump() : trainer::results_table(results), json ? "\n" : "");
  return int(ExitCode::kOk);
}

}  // namespace cadre::launch
