// One shard: an HDF5 file of tokenised documents (docs/formats.md). Datasets, D documents and N tokens:
//   /tokens      (N) uint16 when vocab_size <= 65536, else uint32; chunked, Fletcher-32 checksums
//   /doc_offsets (D + 1) uint64; document d is tokens [doc_offsets[d], doc_offsets[d + 1]), bos and eos included
//   /doc_domain  (D) uint16     /doc_bytes (D) uint32, of the original text     /doc_hash (D, 16) uint8, of the text
// Sets of conversations and pairs also have /loss_mask (N) uint8: 1 where the token is one that the model has to predict.
// Sets of prompts have /answer_offsets (D + 1) uint64, /answers uint8 (a zero byte behind each) and /level (D) uint16.
// Attributes of /: format_version, tokenizer_sha256, vocab_size, domains, split. No time stamps: the same input gives the
// same bytes.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/manifest.h"

namespace cadre::data {

using DocHash = std::array<uint8_t, 16>;

struct ShardHeader {
  std::string tokenizer_sha256;
  int vocab_size = 0;
  std::vector<std::string> domains;
  std::string split;
  SetKind kind = SetKind::kText;  // stands in the manifest
};

// What documents of the kinds for post-training have beside tokens.
struct DocumentExtras {
  std::span<const uint8_t> loss_mask;  // by token; kInstruction and kPreference
  std::string_view answer;             // kPrompts
  int level = 0;
};

// Gathers documents in memory and writes the file whole: under a temporary name, then renamed. The caller bounds the size by
// the number of tokens it adds.
class ShardWriter {
 public:
  explicit ShardWriter(ShardHeader header);
  ~ShardWriter();
  void add(std::span<const int32_t> tokens, int domain, uint32_t text_bytes, const DocHash& hash,
           const DocumentExtras& extras = {});
  int64_t tokens() const;
  int64_t documents() const;
  // Writes folder / file_name and starts over. Throws Error(kData) (disk full, ...); then no file of that name exists.
  ShardInfo finish(const std::filesystem::path& folder, const std::string& file_name);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Checks size or hash before libhdf5 sees the file, then that counts, offsets and types agree. Thread-safe.
class ShardReader {
 public:
  ShardReader(const Manifest& manifest, const ShardInfo& info, Verify verify);
  ~ShardReader();
  const ShardHeader& header() const;
  int64_t documents() const;
  const std::vector<uint64_t>& offsets() const;     // (D + 1)
  const std::vector<uint16_t>& doc_domain() const;  // (D)
  const std::vector<uint32_t>& doc_bytes() const;   // (D)
  void read_tokens(uint64_t begin, std::span<int32_t> out) const;
  const std::vector<uint8_t>& loss_mask() const;  // (N), or empty
  std::string answer(size_t document) const;      // of kPrompts, as is level
  int level(size_t document) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cadre::data
