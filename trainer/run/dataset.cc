#include "trainer/run/dataset.h"

#include "data/selector.h"
#include "parallel/base/files.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_index.h"

namespace cadre::trainer {
namespace {

// The file that `tasks.tokenizer` names; without one that of the checkpoint in `init`, or else bytes, written into the
// run's folder.
std::filesystem::path task_tokenizer(const RunConfig& config) {
  const std::string& name = config.tasks->tokenizer;
  if (!name.empty() && name != "bytes") return name;
  if (name.empty() && !config.init.empty()) {
    const std::filesystem::path folder = find_checkpoint(config.init);
    const std::string file = read_index(folder).tokenizer;
    if (!file.empty()) return folder / file;
  }
  const auto bytes = data::make_byte_tokenizer();
  const std::filesystem::path folder = std::filesystem::path(config.out) / "tokenizer";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, ExitCode::kUsage, "cannot make folder {}: {}", folder.string(), error.message());
  data::save_tokenizer(*bytes, folder);
  return folder / bytes->file_name();
}

Dataset make_task_dataset(const RunConfig& config) {
  require(config.data.manifest.empty(), ExitCode::kUsage,
          "{}: data.manifest and tasks both name data to train on; leave one out", config.source);
  Dataset set;
  set.tokenizer_file = task_tokenizer(config);
  set.tokenizer = data::load_tokenizer(set.tokenizer_file);
  const data::SetKind set_kind = config.rollout ? data::SetKind::kPrompts : data::SetKind::kInstruction;
  const auto selector = data::make_selector(kind(config, config.selector, "selector"));
  set.train = data::select_documents(
      *selector, data::make_task_corpus(*config.tasks, data::TaskSplit::kTrain, *set.tokenizer, set_kind),
      config.seed);
  set.valid = data::make_task_corpus(*config.tasks, data::TaskSplit::kHeldOut, *set.tokenizer, set_kind);
  set.vocab = set.tokenizer->vocab_size();
  set.manifest_hash = base::sha256_text(YAML::Dump(config.tasks_node));
  return set;
}

}  // namespace

Dataset open_dataset(const RunConfig& config) {
  if (config.tasks) return make_task_dataset(config);
  require(!config.data.manifest.empty(), ExitCode::kUsage,
          "{}: data.manifest is missing; give the manifest.json that `cadre prepare` wrote", config.source);
  const data::Manifest manifest = data::load_manifest(config.data.manifest);
  const data::Verify verify = config.data.verify == "size" ? data::Verify::kSize : data::Verify::kAlways;
  Dataset set;
  const auto selector = data::make_selector(kind(config, config.selector, "selector"));
  set.train = data::select_documents(*selector, data::open_corpus(manifest, "train", verify), config.seed);
  for (const data::Split& split : manifest.splits) {
    if (split.name == "valid") set.valid = data::open_corpus(manifest, "valid", verify);
  }
  if (!config.influence.manifest.empty()) {
    const data::Manifest target = data::load_manifest(config.influence.manifest);
    require(target.tokenizer_sha256 == manifest.tokenizer_sha256, ExitCode::kData,
            "{}: influence.manifest {} was prepared with another tokenizer than {}; prepare it with "
            "--tokenizer {}",
            config.source, config.influence.manifest, config.data.manifest,
            (manifest.folder / manifest.tokenizer_file).string());
    set.target = data::open_corpus(target, config.influence.split, verify);
  }
  set.vocab = manifest.vocab_size;
  set.tokenizer_file = manifest.folder / manifest.tokenizer_file;
  if (config.rollout) set.tokenizer = data::load_tokenizer(set.tokenizer_file);
  set.manifest_hash = manifest.hash;
  return set;
}

}  // namespace cadre::trainer
