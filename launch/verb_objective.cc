// `cadre objective`: one objective's loss and gradient on a batch from a file, to compare with other programs
// (optim/evaluation.h has the format).
#include <fmt/format.h>

#include <memory>

#include "launch/verbs.h"
#include "optim/evaluation.h"
#include "parallel/base/files.h"

namespace cadre::launch {
namespace {

struct ObjectiveArguments {
  std::string config, batch;
  std::vector<std::string> overrides;
};

int evaluate(const ObjectiveArguments& arguments) {
  base::Section root = base::parse_run_file(arguments.config, arguments.overrides);
  // The file may be a whole run file; only its `objective` section is read then.
  const bool whole = root.has("objective");
  const base::Section section =
      whole ? root.section("objective") : base::Section(root.node(), root.source(), "objective");
  const std::string text = base::read_file(arguments.batch, ExitCode::kData);
  fmt::print("{}\n", optim::evaluate_objective(section, text, arguments.batch).dump());
  return int(ExitCode::kOk);
}

}  // namespace

void add_objective(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<ObjectiveArguments>();
  CLI::App* verb = app.add_subcommand("objective", "Loss and gradient of one objective on a JSON batch");
  verb->add_option("batch", arguments->batch, "The batch: {\"sequences\": [..]} or {\"pairs\": [..]}")
      ->required();
  verb->add_option("--config", arguments->config, "YAML: an objective section, or a run file that has one")
      ->required();
  verb->add_option("overrides", arguments->overrides, "key=value ...");
  verb->callback([arguments, &run] { run = [arguments] { return evaluate(*arguments); }; });
}

}  // namespace cadre::launch
