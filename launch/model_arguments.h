// What `eval` and `generate` share: a checkpoint, found and loaded.
#pragma once

#include <filesystem>
#include <memory>

#include "data/tokenizer.h"
#include "trainer/run/checkpoint.h"

namespace cadre::launch {

struct LoadedModel {
  std::filesystem::path folder;  // of the checkpoint
  trainer::RunConfig config;
  uint64_t step = 0;
  std::unique_ptr<trainer::ModelState> model;
};
// `path` is a run folder or a checkpoint. All experts are on every rank, whatever the training layout was.
// Collective.
LoadedModel load_model(const std::filesystem::path& path, comm::World& world, int64_t max_sequences);
// The tokenizer that was saved with the checkpoint.
std::unique_ptr<data::Tokenizer> load_saved_tokenizer(const std::filesystem::path& folder);

}  // namespace cadre::launch
