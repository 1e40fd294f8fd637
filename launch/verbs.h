// The verbs of the `cadre` command line, one file each (verb_<name>.cc). add_<verb>() adds its subcommand; when it was
// chosen, `run` does the work and returns the exit code. Errors are thrown and caught once in main().
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace cadre::launch {

using Run = std::function<int()>;

void add_prepare(CLI::App& app, Run& run);
void add_train(CLI::App& app, Run& run);
void add_launch(CLI::App& app, Run& run);
void add_plan(CLI::App& app, Run& run);
void add_eval(CLI::App& app, Run& run);
void add_generate(CLI::App& app, Run& run);
void add_inspect(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_study(CLI::App& app, Run& run);
void add_swarm(CLI::App& app, Run& run);
void add_estimate(CLI::App& app, Run& run);
void add_audit(CLI::App& app, Run& run);
void add_report(CLI::App& app, Run& run);
void add_top(CLI::App& app, Run& run);
void add_objective(CLI::App& app, Run& run);
void add_rollout(CLI::App& app, Run& run);
void add_import(CLI::App& app, Run& run);
void add_score(CLI::App& app, Run& run);
void add_export(CLI::App& app, Run& run);

}  // namespace cadre::launch
