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
  set.vocab = manifest.vocab_size;
  set.tokenizer_file = manifest.folder / manifest.tokenizer_file;
  set.manifest_hash = manifest.hash;
  return set;
}

}  // namespace cadre::trainer
