#include "data/tokenizers/table.h"

#include "data/tokenizers/bytes.h"
#include "data/tokenizers/sentencepiece.h"
#include "parallel/base/files.h"

namespace cadre::data {

const std::vector<base::Entry<TokenizerMaker>>& tokenizer_table() {
  static const std::vector<base::Entry<TokenizerMaker>> table = {
      {"sentencepiece", "a SentencePiece model with byte pieces (trained here, or a given .model)",
       make_sentencepiece},
      {"bytes", "one token a byte, 258 ids with bos and eos", read_byte_tokenizer},
  };
  return table;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& file) {
  constexpr uint64_t kMaxBytes = uint64_t(1) << 28;
  const std::string definition = base::read_file(file, ExitCode::kData, kMaxBytes);
  // A SentencePiece model is a protocol buffer, which never starts with a brace.
  const std::string name = definition.starts_with("{") ? "bytes" : "sentencepiece";
  return base::find_entry(tokenizer_table(), "tokenizer", name).make(definition, file.string());
}

void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  base::write_file_atomic(folder / tokenizer.file_name(), tokenizer.definition(), ExitCode::kData);
}

}  // namespace cadre::data
