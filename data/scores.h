// Scores of documents, made by `cadre score` and read by selectors and curricula: numbers by column, one a document, in
// scores/<name>/<shard file> beside the shards (docs/formats.md). A file says which shard, tokenizer and model it
// belongs to, and is refused with any other.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/manifest.h"

namespace cadre::data {

struct ScoreHeader {
  std::string shard_sha256, tokenizer_sha256;
  std::string model;     // SHA-256 of the scoring checkpoint's index.json
  std::string settings;  // what else the scores depend on: kind of score, sequence length, targets
  std::vector<std::string> columns;
};

// The scores of a split's documents, or of the units of a view of them.
struct Scores {
  std::vector<std::string> columns;
  std::vector<std::vector<double>> values;  // (columns, documents)

  // Throws Error(kUsage) listing the columns that there are.
  const std::vector<double>& column(const std::string& name) const;
};

// Where the scores called `name` of a shard are. Throws Error(kUsage) for a name that is no plain file name.
std::filesystem::path score_file(const Manifest& manifest, const std::string& name, const std::string& shard);
// values: (columns, documents), all finite, else Error(kNumeric) and nothing is written.
void write_scores(const std::filesystem::path& file, const ScoreHeader& header,
                  const std::vector<std::vector<double>>& values);
// The header of a file; nothing when there is no file. Throws Error(kData) when it cannot be read.
std::optional<ScoreHeader> read_score_header(const std::filesystem::path& file);
// All shards of the split. Throws Error(kData) when a file is missing or of another shard, tokenizer or model than the
// rest, and when a score is not finite.
Scores load_scores(const Manifest& manifest, const Split& split, const std::string& name);

}  // namespace cadre::data
