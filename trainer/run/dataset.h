// What a run trains and evaluates on: the splits, and what the tokenizer says. Tests build one in memory.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/corpus.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

struct Dataset {
  std::unique_ptr<data::Corpus> train;
  std::unique_ptr<data::Corpus> valid;   // null: nothing is held out, no evaluation
  std::unique_ptr<data::Corpus> target;  // of influence.manifest; null: influence targets are in `valid`
  int64_t vocab = 0;
  std::filesystem::path tokenizer_file;  // copied into every checkpoint; empty in tests
  std::string manifest_hash;
};

// Checks and opens every shard of both splits. Throws Error(kData), or Error(kUsage) when the run file names
// no manifest.
Dataset open_dataset(const RunConfig& config);

}  // namespace cadre::trainer
