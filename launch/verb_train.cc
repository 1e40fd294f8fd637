// `cadre train`: one rank of a run. Alone or under mpirun or srun; resuming is automatic.
#include <memory>

#include "launch/commit.h"
#include "launch/ranks.h"
#include "launch/run_folder.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/loop.h"
#include "trainer/run/stop.h"

namespace cadre::launch {
namespace {

struct TrainArguments {
  std::string run_file;
  std::vector<std::string> overrides;
  std::string progress = "auto";
};

// Ranks with other settings or of another program would wait for each other in vain, or train something that neither file says.
void require_same_run(const trainer::RunConfig& config, comm::World& world) {
  const std::string hash = base::sha256_text(trainer::resolved_yaml(config) + commit() + CADRE_VERSION);
  const auto number = double(std::stoull(hash.substr(0, 12), nullptr, 16));
  const auto ranks = world.everyone("same run");
  const double largest = ranks->all_reduce(number, comm::ReduceOp::kMax, "same run");
  const double smallest = ranks->all_reduce(number, comm::ReduceOp::kMin, "same run");
  ranks->agree(
      smallest == largest
          ? ""
          : fmt::format("{}: ranks were started with other settings or another build of cadre; give all of "
                        "them the same command, run file and program",
                        config.source),
      ExitCode::kUsage, "same run");
}

int train_rank(const TrainArguments& arguments, comm::World& world) {
  const auto config = trainer::load_run(arguments.run_file, arguments.overrides);
  trainer::install_stop_signals(!started_by_launcher());
  require_same_run(config, world);
  open_log(config.out, config.source, world.rank());
  claim_run(config.out, config.source, world);
  open_box(config.out, world);
  const trainer::Dataset dataset = trainer::open_dataset(config);
  return int(trainer::train(config, dataset, world,
                            {.progress = progress_style(arguments.progress), .commit = commit()}));
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* verb = app.add_subcommand("train", "Train (one rank of) a run; goes on from its last checkpoint");
  verb->add_option("run", arguments->run_file, "The run file")->required();
  verb->add_option("overrides", arguments->overrides, "key.sub=value ...");
  verb->add_option("--progress", arguments->progress,
                   "line: one that is rewritten, plain: a line now and then; auto: by the terminal")
      ->check(CLI::IsMember({"auto", "line", "plain"}))
      ->capture_default_str();
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return train_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
