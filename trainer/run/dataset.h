// What a run trains and evaluates on: the splits, and what the tokenizer says. Tests build one in memory.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

struct Dataset {
  std::unique_ptr<data::Corpus> train;
  std::unique_ptr<data::Corpus> valid;   // null: nothing is held out, no evaluation
  std::unique_ptr<data::Corpus> target;  // of influence.manifest; null: influence targets are in `valid`
  int64_t vocab = 0;
  std::filesystem::path tokenizer_file;                   // copied into every checkpoint; empty in tests
  std::shared_ptr<const data::Tokenizer> tokenizer = {};  // for runs that sample, else null
  std::string manifest_hash;
};

// Checks and opens every shard of both splits, or makes the problems of `tasks`. Throws Error(kData), or Error(kUsage)
// when the run file names neither or both.
Dataset open_dataset(const RunConfig& config);
// What is trained on alone. Writes nothing.
std::unique_ptr<data::Corpus> open_train_split(const RunConfig& config);

}  // namespace cadre::trainer
