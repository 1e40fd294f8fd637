// Tokenizers turn bytes into ids and back. decode(encode(x)) == x for every byte string, but for a
// tokenizer.json that normalises text (tokenizers/tokenizer_json.h). One file a tokenizer in tokenizers/, one
// row in tokenizers/table.cc. Thread-safe once loaded. std types only: SentencePiece's headers and Abseil's
// cannot meet in one translation unit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cadre::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string kind() const = 0;  // the table's name: "sentencepiece", "tokenizer_json", "bytes"
  virtual int vocab_size() const = 0;
  virtual int bos() const = 0;  // starts every document; never produced by encode
  virtual int eos() const = 0;  // ends every document; may equal bos
  virtual void encode(std::string_view text, std::vector<int32_t>& out) const = 0;  // appends
  virtual std::string decode(std::span<const int32_t> ids) const = 0;  // bos and eos give nothing
  // The bytes that define it; their SHA-256 stands in shards and checkpoints. save() writes them to `file`.
  virtual std::string definition() const = 0;
  virtual std::string file_name() const = 0;  // "tokenizer.model", "tokenizer.json", ...
};

// From a file that save_tokenizer wrote, or a user's SentencePiece .model, tokenizer.json or encoder.json (or
// the folder with it). Throws Error(kData).
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& file);
std::unique_ptr<Tokenizer> make_byte_tokenizer();
// Writes definition() to folder / file_name().
void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder);

}  // namespace cadre::data
