// manifest.json lists what `cadre prepare` made: shards with sizes and hashes, domains, tokenizer. Shards never change
// after that; one is opened only when its bytes match. docs/formats.md has the layout byte by byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace cadre::data {

// What the documents of a set are (docs/formats.md, "Sets for post-training").
enum class SetKind {
  kText,         // every token is trained
  kInstruction,  // conversations; the answers' tokens are trained
  kPreference,   // pairs: documents 2p and 2p + 1 answer one prompt, the first is preferred
  kPrompts,      // prompts without an answer's tokens, with the right answer as text
};
const char* name_of(SetKind kind);

struct DomainInfo {
  std::string name;
  int64_t documents = 0, tokens = 0, bytes = 0;  // of the split; bytes of the original text
};

struct ShardInfo {
  std::string file;  // relative to the manifest's folder
  uint64_t bytes = 0;
  std::string sha256;
  int64_t documents = 0, tokens = 0;
};

struct Split {
  std::string name;  // "train", "valid"
  std::vector<ShardInfo> shards;
  std::vector<DomainInfo> domains;  // same order in every split; an index into it is a domain id
};

struct Manifest {
  static constexpr int kFormatVersion = 1;
  std::filesystem::path folder;  // where it was read from
  std::string tokenizer_file, tokenizer_kind, tokenizer_sha256;
  int vocab_size = 0, bos = 0, eos = 0;
  SetKind kind = SetKind::kText;
  std::vector<Split> splits;
  std::string hash;  // SHA-256 of the file; resume warns when it differs

  const Split& split(const std::string& name) const;  // throws Error(kData) naming those that exist
};
// Throws Error(kData) for a file that is missing, not JSON, of another version, or lies about counts.
Manifest load_manifest(const std::filesystem::path& file);
void save_manifest(const Manifest& manifest, const std::filesystem::path& file);

enum class Verify { kAlways, kSize };  // compare SHA-256, or sizes only

}  // namespace cadre::data
