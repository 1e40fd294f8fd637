#include "trainer/run/dataset.h"

namespace cadre::trainer {

Dataset open_dataset(const RunConfig& config) {
  require(!config.data.manifest.empty(), ExitCode::kUsage,
          "{}: data.manifest is missing; give the manifest.json that `cadre prepare` wrote", config.source);
  const data::Manifest manifest = data::load_manifest(config.data.manifest);
  const data::Verify verify = config.data.verify == "size" ? data::Verify::kSize : data::Verify::kAlways;
  Dataset set;
  set.train = data::open_corpus(manifest, "train", verify);
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
  set.manifest_hash = manifest.hash;
  return set;
}

}  // namespace cadre::trainer
