// `cadre export`: a checkpoint becomes a folder that transformers and others load.
#include <fmt/format.h>

#include <memory>

#include "launch/option_checks.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "trainer/interop/transfer.h"

namespace cadre::launch {
namespace {

struct ExportArguments {
  std::string from, to, like, dtype;
  double shard_gigabytes = 5;
};

int export_rank(const ExportArguments& arguments, comm::World& world) {
  interop::ExportOptions options{
      .from = arguments.from, .to = arguments.to, .format = {}, .like = arguments.like};
  if (!arguments.dtype.empty()) options.format = interop::format_from_name(arguments.dtype, "--dtype");
  options.shard_bytes = uint64_t(arguments.shard_gigabytes * 1e9);
  const interop::TransferReport r = interop::export_model(options, world);
  if (world.rank() == 0) {
    fmt::print("{}: {:.2f} M parameters in {} tensors, {:.1f} MB of {} in {} file{}: {}\n", r.model_type,
               double(r.parameters) / 1e6, r.tensors, double(r.bytes) / 1e6, name_of(r.format), r.files,
               r.files == 1 ? "" : "s", arguments.to);
  }
  return int(ExitCode::kOk);
}

}  // namespace

void add_export(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<ExportArguments>();
  CLI::App* verb = app.add_subcommand("export", "A checkpoint as a folder that transformers loads");
  verb->add_option("checkpoint", arguments->from, "A run folder (its newest checkpoint) or a checkpoint")
      ->required();
  verb->add_option("folder", arguments->to, "Where config.json and *.safetensors go; must not exist")
      ->required();
  verb->add_option("--dtype", arguments->dtype,
                   "Default: what the model was imported in, float32 for one that was trained here")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  verb->add_option("--like", arguments->like,
                   "Published folder to take the tokenizer and the rest of config.json from");
  verb->add_option("--shard-gigabytes", arguments->shard_gigabytes, "Largest size of one file")
      ->capture_default_str()
      ->check(between(1e-6, 1e6));
  verb->footer("mpirun -np N cadre export ... shares the files over N ranks.");
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return export_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
