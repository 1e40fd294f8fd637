#include "data/tokenizers/table.h"

#include "data/tokenizers/bytes.h"
#include "data/tokenizers/sentencepiece.h"
#include "data/tokenizers/tokenizer_json.h"
#include "parallel/base/files.h"

namespace cadre::data {

namespace {

std::string kind_of(const std::string& definition) {
  // A SentencePiece model is a protocol buffer, which never starts with a brace.
  if (!definition.starts_with("{")) return "sentencepiece";
  return definition.starts_with(R"({"kind": "bytes")") ? "bytes" : "tokenizer_json";
}

}  // namespace

const std::vector<base::Entry<TokenizerMaker>>& tokenizer_table() {
  static const std::vector<base::Entry<TokenizerMaker>> table = {
      {"sentencepiece", "a SentencePiece model with byte pieces (trained here, or a given .model)",
       make_sentencepiece},
      {"tokenizer_json", "a BPE tokenizer.json, or GPT-2's encoder.json and vocab.bpe", make_tokenizer_json},
      {"bytes", "one token a byte, 258 ids with bos and eos", read_byte_tokenizer},
  };
  return table;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& file) {
  if (std::filesystem::is_directory(file)) return import_tokenizer(file);
  constexpr uint64_t kMaxBytes = uint64_t(1) << 28;
  const std::string definition = base::read_file(file, ExitCode::kData, kMaxBytes);
  const std::string name = kind_of(definition);
  // Which tokens start and end documents may stand in another file beside this one.
  if (name == "tokenizer_json") return import_tokenizer(file);
  return base::find_entry(tokenizer_table(), "tokenizer", name).make(definition, file.string());
}

void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  base::write_file_atomic(folder / tokenizer.file_name(), tokenizer.definition(), ExitCode::kData);
}

}  // namespace cadre::data
