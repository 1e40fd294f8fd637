#include "launch/model_arguments.h"

#include "trainer/run/checkpoint_folder.h"

namespace cadre::launch {

LoadedModel load_model(const std::filesystem::path& path, comm::World& world, int64_t max_sequences) {
  LoadedModel loaded;
  loaded.folder = trainer::find_checkpoint(path, *world.everyone("checkpoint"));
  trainer::TensorReader reader(loaded.folder);
  loaded.step = reader.index().step;
  loaded.config = trainer::checkpoint_config(reader.index(), loaded.folder);
  loaded.config.mesh = {};  // expert degree 1
  loaded.model = std::make_unique<trainer::ModelState>(loaded.config, world, max_sequences, false);
  trainer::restore_model(*loaded.model, reader);
  return loaded;
}

std::unique_ptr<data::Tokenizer> load_saved_tokenizer(const std::filesystem::path& folder) {
  const trainer::CheckpointIndex index = trainer::read_index(folder);
  require(!index.tokenizer.empty(), ExitCode::kCheckpoint, "{}: no tokenizer was saved with this checkpoint",
          folder.string());
  return data::load_tokenizer(folder / index.tokenizer);
}

}  // namespace cadre::launch
