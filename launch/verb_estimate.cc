// `cadre estimate`: time of a step and memory of a GPU on a cluster that is described in a file, for every way of
// laying a run out.
#include <fmt/format.h>

#include <memory>

#include "launch/verbs.h"
#include "trainer/run/estimate.h"
#include "trainer/run/initial_model.h"

namespace cadre::launch {
namespace {

struct EstimateArguments {
  std::string cluster, run_file;
  std::vector<std::string> overrides;
};

int estimate(const EstimateArguments& arguments) {
  const trainer::Cluster cluster = trainer::read_cluster(arguments.cluster);
  const trainer::RunConfig run = trainer::load_run(arguments.run_file, arguments.overrides);
  require(run.model.vocab > 0, ExitCode::kUsage, "{}: an estimate needs model.vocab", arguments.run_file);
  const auto layouts = trainer::estimate_layouts(cluster, run);
  const std::string owner =
      run.mesh.cp > 1 ? fmt::format("a context group of {} GPUs", run.mesh.cp) : "a GPU";
  fmt::print("{} GPUs, {} sequences of {} tokens {} and step; times in ms, memory in GiB of {:.0f}\n",
             cluster.gpus(), run.train.micro_batch, run.data.seq_len, owner, cluster.memory_gib);
  fmt::print("{:>4} {:>6} {:>4} {:<10} {:>8} {:>8} {:>7} {:>7} {:>8} {:>9} {:>7} {:>7} {:>12} {:>6} {:>7}\n",
             "ep", "data", "zero", "recompute", "step", "compute", "update", "context", "experts",
             "gradients", "values", "beside", "tokens/s", "peak", "memory");
  for (const trainer::Estimate& e : layouts) {
    fmt::print(
        "{:>4} {:>6} {:>4} {:<10} {:>8.1f} {:>8.1f} {:>7.1f} {:>7.1f} {:>8.1f} {:>9.1f} {:>7.1f} {:>7.1f} "
        "{:>12.0f} "
        "{:>5.1f}% "
        "{:>7.1f}{}\n",
        e.ep, e.data_ranks, e.zero, trainer::recompute_name(e.recompute), e.step_ms(), e.compute_ms,
        e.update_ms, e.context_ms, e.experts_ms, e.gradients_ms, e.values_ms, e.beside_ms, e.tokens_per_s(),
        100 * e.peak_share, e.memory_gib, e.fits ? "" : "  does not fit");
  }
  const trainer::Estimate& best = layouts.front();
  if (best.fits) {
    fmt::print("best: mesh.ep={} train.activation_recompute={} mesh.zero={}\n", best.ep,
               trainer::recompute_name(best.recompute), best.zero);
  } else {
    fmt::print("nothing fits: lower train.micro_batch or data.seq_len, or take more GPUs\n");
  }
  return int(ExitCode::kOk);
}

}  // namespace

void add_estimate(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<EstimateArguments>();
  CLI::App* verb =
      app.add_subcommand("estimate", "Step time and memory of a run on a cluster described in a file");
  verb->add_option("--cluster", arguments->cluster,
                   "YAML: nodes, gpus_per_node, memory_gib, peak_tflops, efficiency, "
                   "memory_gb_s, node_gb_s, network_gb_s, sms, comm_sms")
      ->required();
  verb->add_option("run", arguments->run_file, "The run file; train.micro_batch is a GPU's batch")
      ->required();
  verb->add_option("overrides", arguments->overrides, "key.sub=value ...");
  verb->callback([arguments, &run] { run = [arguments] { return estimate(*arguments); }; });
}

}  // namespace cadre::launch
