#include "trainer/run/dataset.h"

#include "data/selector.h"
#include "parallel/base/files.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_index.h"

namespace cadre::trainer {
namespace {

// The file that `tasks.tokenizer` names; without one that of the checkpoint in `init`; empty for bytes.
std::filesystem::path named_tokenizer(const RunConfig& config) {
  const std::string& name = config.tasks->tokenizer;
  if (!name.empty()) return name == "bytes" ? "" : name;
  if (config.init.empty()) return "";
  const std::filesystem::path folder = find_index(config.init);
  const std::string file = read_index(folder).tokenizer;
  return file.empty() ? std::filesystem::path() : folder / file;
}

// Bytes are written into the run's folder.
std::filesystem::path task_tokenizer(const RunConfig& config) {
  const std::filesystem::path named = named_tokenizer(config);
  if (!named.empty()) return named;
  const auto bytes = data::make_byte_tokenizer();
  const std::filesystem::path folder = std::filesystem::path(config.out) / "tokenizer";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, ExitCode::kUsage, "cannot make folder {}: {}", folder.string(), error.message());
  data::save_tokenizer(*bytes, folder);
  return folder / bytes->file_name();
}

data::Verify verify_of(const RunConfig& config) {
  return config.data.verify == "size" ? data::Verify::kSize : data::Verify::kAlways;
}
data::SetKind task_kind(const RunConfig& config) {
  return config.rollout ? data::SetKind::kPrompts : data::SetKind::kInstruction;
}

void require_one_source(const RunConfig& config) {
  require(!config.tasks || config.data.manifest.empty(), ExitCode::kUsage,
          "{}: data.manifest and tasks both name data to train on; leave one out", config.source);
  require(config.tasks || !config.data.manifest.empty(), ExitCode::kUsage,
          "{}: data.manifest is missing; give the manifest.json that `cadre prepare` wrote", config.source);
}

// A run that cannot save its tokenizer would only notice at its first checkpoint.
std::filesystem::path checked_tokenizer(const data::Manifest& manifest) {
  const std::filesystem::path file = manifest.folder / manifest.tokenizer_file;
  const std::string hash = base::sha256_file(file);
  require(
      hash == manifest.tokenizer_sha256, ExitCode::kData,
      "{}: SHA-256 {}, expected {} (manifest). The file is damaged: copy it again or prepare the data again",
      file.string(), hash, manifest.tokenizer_sha256);
  return file;
}

std::unique_ptr<data::Corpus> selected(const RunConfig& config, std::unique_ptr<data::Corpus> corpus) {
  const auto selector = data::make_selector(kind(config, config.selector, "selector"));
  return data::select_documents(*selector, std::move(corpus), config.seed);
}
std::unique_ptr<data::Corpus> train_tasks(const RunConfig& config, const data::Tokenizer& tokenizer) {
  return selected(
      config, data::make_task_corpus(*config.tasks, data::TaskSplit::kTrain, tokenizer, task_kind(config)));
}
std::unique_ptr<data::Corpus> train_documents(const RunConfig& config, const data::Manifest& manifest) {
  return selected(config, data::open_corpus(manifest, "train", verify_of(config)));
}

Dataset make_task_dataset(const RunConfig& config) {
  Dataset set;
  set.tokenizer_file = task_tokenizer(config);
  set.tokenizer = data::load_tokenizer(set.tokenizer_file);
  set.train = train_tasks(config, *set.tokenizer);
  set.valid =
      data::make_task_corpus(*config.tasks, data::TaskSplit::kHeldOut, *set.tokenizer, task_kind(config));
  set.vocab = set.tokenizer->vocab_size();
  set.manifest_hash = base::sha256_text(YAML::Dump(config.tasks_node));
  return set;
}

}  // namespace

std::unique_ptr<data::Corpus> open_train_split(const RunConfig& config) {
  require_one_source(config);
  if (!config.tasks) return train_documents(config, data::load_manifest(config.data.manifest));
  const std::filesystem::path named = named_tokenizer(config);
  const auto tokenizer = named.empty() ? data::make_byte_tokenizer() : data::load_tokenizer(named);
  return train_tasks(config, *tokenizer);
}

Dataset open_dataset(const RunConfig& config) {
  require_one_source(config);
  if (config.tasks) return make_task_dataset(config);
  const data::Manifest manifest = data::load_manifest(config.data.manifest);
  const data::Verify verify = verify_of(config);
  Dataset set;
  set.train = train_documents(config, manifest);
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
  set.tokenizer_file = checked_tokenizer(manifest);
  if (config.rollout) set.tokenizer = data::load_tokenizer(set.tokenizer_file);
  set.manifest_hash = manifest.hash;
  return set;
}

}  // namespace cadre::trainer
